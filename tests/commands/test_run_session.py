"""How a command reads its hyperparameter file and loads the model that the file names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from transformers import BertConfig, BertForTokenClassification

from easyedit_lifelong import hookimpl
from easyedit_lifelong.commands.run_session import load_model_for
from easyedit_lifelong.errors import HyperParameterError, LifelongError, ModelError
from easyedit_lifelong.hyperparams import PluginHyperParams
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.runs.hyperparameter_files import load_hparams
from tests.support.tiny_models import build_model, build_tokenizer


@dataclass(kw_only=True)
class NopHyperParams(PluginHyperParams):
    """Hyperparameters of a method that does nothing."""

    ALG_NAME: ClassVar[str] = "NOP"
    rate: float = 1.0


class Plugin:
    """A plugin with this method."""

    @hookimpl
    def register_methods(self, register: Any) -> None:
        register(EditMethod("NOP", NopHyperParams, lambda model, *_, **__: (model, None)))


@pytest.fixture
def nop() -> Iterator[None]:
    """The plugin, registered for one test."""
    plugin, plugins = Plugin(), get_plugins()
    plugins.add(plugin, "test-nop")
    yield
    plugins.remove("test-nop")


def _write(folder: Path, **values: Any) -> Path:
    path = folder / "file.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_alg_name_selects_the_hyperparameter_class(tmp_path: Path, nop: None) -> None:
    grace = load_hparams(_write(tmp_path, alg_name="GRACE", model_name="m", inner_params=["x"]))
    assert type(grace) is GraceHyperParams
    hparams = load_hparams(_write(tmp_path, alg_name="NOP", model_name="m", rate="1e-2"))
    assert type(hparams) is NopHyperParams
    assert hparams.rate == 0.01


def test_a_shipped_file_is_loaded_by_name() -> None:
    assert load_hparams("GRACE/smollm2-135m").model_name == "smollm2-135m"


@pytest.mark.parametrize("values", [{}, {"alg_name": None}, {"alg_name": 5}, {"alg_name": ["GRACE"]}])
def test_a_file_without_alg_name_is_refused(tmp_path: Path, values: dict[str, Any]) -> None:
    path = _write(tmp_path, model_name="m", **values)
    with pytest.raises(HyperParameterError, match="alg_name: missing") as caught:
        load_hparams(path)
    assert str(path) in str(caught.value)


def test_an_unknown_method_is_refused_with_a_suggestion(tmp_path: Path, nop: None) -> None:
    path = _write(tmp_path, alg_name="NOPE", model_name="m")
    with pytest.raises(LifelongError, match=r"'NOPE'\. Did you mean 'NOP'\?") as caught:
        load_hparams(path)
    assert str(path) in str(caught.value), "the message doesn't name the file"


def test_the_named_model_is_loaded_in_its_dtype(checkpoint: Path) -> None:
    hparams = GraceHyperParams(model_name=str(checkpoint), inner_params=["x"], device="cpu", dtype="bfloat16")
    model, tokenizer = load_model_for(hparams)
    assert str(model.dtype) == "torch.bfloat16"
    assert tokenizer.padding_side == "left"


def test_models_that_cannot_be_edited_are_refused(tmp_path: Path) -> None:
    """Transformers would load a token classifier as a language model with a head of random weights."""
    shape = {"vocab_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertForTokenClassification(BertConfig(**shape, hidden_size=8)).save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"{tmp_path}: is a BertForTokenClassification"):
        load_model_for(GraceHyperParams(model_name=str(tmp_path), inner_params=["x"], device="cpu"))


def test_a_loaded_model_and_tokenizer_are_used_as_they_are() -> None:
    pair = (build_model("gpt2"), build_tokenizer())
    model, tokenizer = load_model_for(GraceHyperParams(model_name=pair, inner_params=["x"]))
    assert (model, tokenizer) == pair
