"""Models and tokenizers load by name, folder and file; anything else is refused in one line."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from easyedit_lifelong.errors import DeviceError, ModelError
from easyedit_lifelong.models import load
from easyedit_lifelong.models.load import (
    context_length,
    load_model,
    model_label,
    prepare_tokenizer,
    resolve_dtype,
)
from tests.support.tiny_models import build_model, build_tokenizer


def _refusal(name: Any, **options: Any) -> str:
    """Load what can't be loaded; return the message, which must be one line."""
    with pytest.raises(ModelError) as caught:
        load_model(name, "cpu", **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ------------------------------------------------------------------ loading


def test_a_checkpoint_folder_loads_with_its_weights_and_tokenizer(checkpoint: Path) -> None:
    model, tokenizer = load_model(checkpoint, "cpu")
    reference = build_model("llama")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), reference.parameters(), strict=True))
    assert not model.training
    assert model.dtype == torch.float32
    assert tokenizer("the capital")["input_ids"] == build_tokenizer()("the capital")["input_ids"]


@pytest.mark.parametrize("spelling", [str, lambda path: f"{path}/", lambda path: path.parent / "." / path.name])
def test_every_spelling_of_a_folder_loads(checkpoint: Path, spelling: Any) -> None:
    assert load_model(spelling(checkpoint), "cpu")[0].config.hidden_size == 32


def test_relative_paths_and_home_paths_load(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkpoint.parent)
    assert load_model(checkpoint.name, "cpu")[0].config.hidden_size == 32
    monkeypatch.setenv("HOME", str(checkpoint.parent))
    assert load_model(f"~/{checkpoint.name}", "cpu")[0].config.hidden_size == 32


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (None, torch.float32),
        ("float32", torch.float32),
        ("bfloat16", torch.bfloat16),
        ("fp16", torch.float16),
        (torch.bfloat16, torch.bfloat16),
        ("auto", torch.bfloat16),
    ],
)
def test_the_model_has_the_requested_dtype_and_float32_by_default(
    tmp_path: Path, dtype: Any, expected: torch.dtype
) -> None:
    """A half-precision checkpoint is no reason to edit in half precision."""
    build_model("llama", torch.bfloat16).save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    assert load_model(tmp_path, "cpu", dtype)[0].dtype == expected


def test_every_family_loads_with_padding_on_the_left(family: str, tmp_path: Path) -> None:
    """The tokenizers of GPT-2 and Llama have no padding token and pad on the right."""
    build_model(family).save_pretrained(tmp_path)
    tokenizer = build_tokenizer()
    tokenizer.pad_token, tokenizer.padding_side = None, "right"
    tokenizer.save_pretrained(tmp_path)
    model, tokenizer = load_model(tmp_path, "cpu")
    assert tokenizer.padding_side == "left"
    assert tokenizer.pad_token == tokenizer.eos_token == "</s>"
    assert model.generation_config.pad_token_id is not None
    assert model.get_input_embeddings().num_embeddings == 64, "the padding token has grown the embeddings"


def test_a_tokenizers_padding_token_is_kept(checkpoint: Path) -> None:
    assert load_model(checkpoint, "cpu")[1].pad_token == "<pad>"


def test_remote_code_is_run_only_when_it_is_trusted(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trusted: list[Any] = []

    def load(_: Any, **options: Any) -> Any:
        trusted.append(options["trust_remote_code"])
        return build_model("llama"), {"missing_keys": []}

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", load)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: build_tokenizer())
    load_model(checkpoint, "cpu")
    load_model(checkpoint, "cpu", trust_remote_code=True)
    assert trusted == [False, True]


def test_model_parallel_leaves_the_placement_to_transformers(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device_maps: list[Any] = []
    original = transformers.AutoModelForCausalLM.from_pretrained

    def load(source: Any, **options: Any) -> Any:
        device_maps.append(options.pop("device_map"))
        return original(source, **options)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", load)
    load_model(checkpoint, "cuda:7", model_parallel=True)  # the device is then not checked
    load_model(checkpoint, "cpu")
    assert device_maps == ["auto", None]


# ------------------------------------------------------------------ refusals


def test_a_checkpoint_that_lacks_weights_is_refused_with_their_names(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "one")
    weights = load_file(tmp_path / "one" / "model.safetensors")
    del weights["model.layers.2.mlp.down_proj.weight"]
    save_file(weights, tmp_path / "one" / "model.safetensors", {"format": "pt"})
    assert "lacks weights of this model: model.layers.2.mlp.down_proj.weight. They" in _refusal(tmp_path / "one")
    shutil.copytree(checkpoint, tmp_path / "many")
    config = json.loads((tmp_path / "many" / "config.json").read_text())
    (tmp_path / "many" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 9}))
    assert "model.layers.4.input_layernorm.weight, " in (message := _refusal(tmp_path / "many"))
    assert " and 40 others" in message


def test_a_device_that_the_machine_lacks_is_refused_before_loading(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"cuda:99.*Use one of"):
        load_model(tmp_path / "nothing here", "cuda:99")


def test_an_unknown_dtype_is_refused_before_loading(tmp_path: Path) -> None:
    message = _refusal(tmp_path / "nothing here", dtype="int8")
    assert "dtype: 'int8'" in message
    assert "bfloat16" in message


def test_the_home_folder_of_an_unknown_user_is_refused() -> None:
    assert _refusal("~nosuchuser/m").startswith("~nosuchuser/m: the home folder isn't known")


@pytest.mark.parametrize("name", ["./nothing", "/nothing/here", "~/nothing", "a/b/c"])
def test_a_path_without_a_folder_is_refused(name: str) -> None:
    assert _refusal(name) == f"{name}: no such folder. model_name must be a model's name, folder or GGUF file."


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    assert str(tmp_path) in _refusal(tmp_path)
    assert "config.json" in _refusal(tmp_path)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"x")
    assert str(path) in _refusal(path)


def test_a_name_that_the_hub_lacks_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("nobody/nothing is not a local folder and is not a valid model identifier\n\nIf this is …")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", fail)
    message = _refusal("nobody/nothing")
    assert message.startswith("nobody/nothing: can't load a model from there: nobody/nothing is not")
    assert "checkpoint folder" in message


@pytest.fixture
def broken(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint, for a test to break."""
    return Path(shutil.copytree(checkpoint, tmp_path / "model"))


def _change_hidden_size(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 64, "head_dim": 16}))


def _remove(folder: Path, pattern: str) -> None:
    for file in folder.glob(pattern):
        file.unlink()


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (lambda folder: (folder / "config.json").write_text("{"), ""),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "perceptron9000"}'), "perceptron9000"),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "vit"}'),
            "can't load a causal language model",
        ),
        (lambda folder: _remove(folder, "model.safetensors"), ""),
        (_change_hidden_size, ""),
        (lambda folder: _remove(folder, "tokenizer*"), "tokenizer"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer"),
    ],
    ids=[
        "config that is no JSON",
        "unknown architecture",
        "no causal language model",
        "no weights",
        "weights of another shape",
        "no tokenizer",
        "tokenizer that is no JSON",
    ],
)
def test_a_broken_checkpoint_is_refused_with_its_folder(broken: Path, damage: Any, part: str) -> None:
    damage(broken)
    message = _refusal(broken)
    assert str(broken) in message
    assert part in message


@pytest.mark.parametrize("size", [0, 5, 1000])
def test_truncated_weights_are_refused_with_their_folder(broken: Path, size: int) -> None:
    """An interrupted download leaves such a file."""
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    assert str(broken) in _refusal(broken)


def test_a_missing_gguf_file_is_refused_with_its_path(tmp_path: Path) -> None:
    assert _refusal(tmp_path / "model.gguf").startswith(f"{tmp_path / 'model.gguf'}: no such file")


@pytest.mark.parametrize("content", [b"", b"this is not GGUF", b"GGUF", b"GGUF\x03\x00\x00\x00" + b"\xff" * 40])
def test_a_file_that_is_not_gguf_is_refused_with_its_path(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("gguf")
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    assert str(path) in _refusal(path)


def test_a_gguf_file_without_the_gguf_package_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install gguf" in _refusal(tmp_path / "model.gguf")


def test_a_gguf_file_loads_like_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    tokenizer = build_tokenizer()
    tokenizer.padding_side = "right"
    gguf_model = build_model("llama").train()
    monkeypatch.setattr(gguf_model.config, "_name_or_path", str(tmp_path))  # transformers sets the folder
    monkeypatch.setattr(load, "read_gguf", lambda gguf: (gguf_model, tokenizer))
    model, tokenizer = load_model(path, "cpu", "bfloat16")
    assert model_label(model) == str(path), "the label is the folder, which can't be loaded"
    assert model.dtype == torch.bfloat16
    assert not model.training
    assert tokenizer.padding_side == "left"


# ------------------------------------------------------------------ padding token, context length, label, dtype


def test_the_unknown_token_pads_if_there_is_no_end_of_text_token() -> None:
    tokenizer = build_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token = None
    prepare_tokenizer(tokenizer)
    assert tokenizer.pad_token == "<unk>"


def test_a_tokenizer_without_any_token_to_pad_with_is_refused() -> None:
    tokenizer = build_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token = tokenizer.unk_token = None
    with pytest.raises(ModelError, match=r"no token to pad with. Set tokenizer\.pad_token"):
        prepare_tokenizer(tokenizer)


def test_every_familys_context_length_is_found(family: str) -> None:
    assert context_length(build_model(family)) == 64


def test_a_module_without_a_config_has_no_context_length() -> None:
    assert context_length(torch.nn.Linear(1, 1)) is None


def test_the_label_is_the_folder_or_else_the_class(checkpoint: Path) -> None:
    assert model_label(load_model(checkpoint, "cpu")[0]) == str(checkpoint)
    assert model_label(build_model("gpt2")) == "GPT2LMHeadModel"


def test_an_unknown_dtype_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="dtype: 'float8'"):
        resolve_dtype("float8")
