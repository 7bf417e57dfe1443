"""What the command line's session reads before it runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from conftest import build_model, build_tokenizer

from easyedit_lifelong import hookimpl
from easyedit_lifelong.data.request import Probe
from easyedit_lifelong.errors import DataError, HyperParameterError, LifelongError
from easyedit_lifelong.hyperparams import PluginHyperParams
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.registry import EditMethod
from easyedit_lifelong.reporting.session import load_for, load_hparams, read_retention


@dataclass(kw_only=True)
class NopHyperParams(PluginHyperParams):
    """Hyperparameters of a method that does nothing."""

    ALG_NAME: ClassVar[str] = "NOP"
    rate: float = 1.0


class Plugin:
    """A third party's."""

    @hookimpl
    def register_methods(self, register: Any) -> None:
        register(EditMethod("NOP", NopHyperParams, lambda model, *_, **__: (model, None)))


@pytest.fixture
def nop() -> Iterator[None]:
    """The third party's method, for one test."""
    plugin, plugins = Plugin(), get_plugins()
    plugins.add(plugin, "test-nop")
    yield
    plugins.manager.unregister(plugin)
    del plugins.methods._entries["NOP"]


def _write(folder: Path, **values: Any) -> Path:
    path = folder / "file.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_the_file_says_which_class_reads_it(tmp_path: Path, nop: None) -> None:
    grace = load_hparams(_write(tmp_path, alg_name="GRACE", model_name="m", inner_params=["x"]))
    assert type(grace) is GraceHyperParams
    theirs = load_hparams(_write(tmp_path, alg_name="NOP", model_name="m", rate="1e-2"))
    assert type(theirs) is NopHyperParams
    assert theirs.rate == 0.01


def test_a_shipped_name() -> None:
    assert load_hparams("GRACE/smollm2-135m").model_name == "smollm2-135m"


@pytest.mark.parametrize("values", [{}, {"alg_name": None}, {"alg_name": 5}, {"alg_name": ["GRACE"]}])
def test_no_method_named(tmp_path: Path, values: dict[str, Any]) -> None:
    path = _write(tmp_path, model_name="m", **values)
    with pytest.raises(HyperParameterError, match="alg_name: missing") as caught:
        load_hparams(path)
    assert str(path) in str(caught.value)


def test_a_method_that_nobody_registered(tmp_path: Path, nop: None) -> None:
    path = _write(tmp_path, alg_name="NOPE", model_name="m")
    with pytest.raises(LifelongError, match=r"'NOPE'\. Did you mean 'NOP'\?") as caught:
        load_hparams(path)
    assert str(path) in str(caught.value), "the file is named"


def test_the_model_that_is_named(checkpoint: Path) -> None:
    hparams = GraceHyperParams(model_name=str(checkpoint), inner_params=["x"], device="cpu", dtype="bfloat16")
    model, tokenizer = load_for(hparams)
    assert str(model.dtype) == "torch.bfloat16"
    assert tokenizer.padding_side == "left"


def test_a_model_that_is_loaded_already() -> None:
    pair = (build_model("gpt2"), build_tokenizer())
    model, tokenizer = load_for(GraceHyperParams(model_name=pair, inner_params=["x"]))
    assert (model, tokenizer) == pair


def test_held_out_facts(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text('[{"prompt": "p", "answer": "é", "note": 1}]', encoding="utf-8")
    assert read_retention(path) == [Probe("p", "é")]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[", "not valid JSON"),
        ('[{"prompt": "p", "answer": "a"}, {"prompt": "p"}]', "record 1, field 'answer': is missing"),
        ('[{"prompt": "p", "answer": 5}]', "record 0, field 'answer'"),
        ('["p"]', "record 0"),
        ('{"prompt": "p", "answer": "a"}', "must hold a list"),
        ("null", "must hold a list"),
        ("[]", "holds no"),
    ],
)
def test_bad_held_out_facts(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "facts.json"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        read_retention(path)
    assert str(caught.value).startswith(str(path))
    assert says in str(caught.value)


def test_held_out_facts_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other path given on the command line knows what ~ is."""
    (tmp_path / "facts.json").write_text('[{"prompt": "p", "answer": "a"}]')
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_retention(Path("~/facts.json")) == [Probe("p", "a")]
