"""Inputs whose message must name their real cause."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from easyedit_lifelong import GraceHyperParams, apply_grace_to_model, load_edits, save_edits
from easyedit_lifelong.covariance.corpus import find_corpus
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.retention import read_retention
from easyedit_lifelong.errors import DataError, EditError, HyperParameterError, ModelError, RunError
from easyedit_lifelong.methods.locate_edit.check import check_model
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.runs.run_folder import RunFolder
from tests.support.coachhook_edits import attributes_and_hooks_of, editor_on, hparams_for, requests_for
from tests.support.tiny_models import build_model, build_tokenizer


@pytest.mark.parametrize("wohk", [False, True])
def test_a_step_that_is_too_large_is_blamed_on_v_lr_and_not_on_the_prompt(wohk: bool) -> None:
    model = build_model("llama")
    before = attributes_and_hooks_of(model)
    with pytest.raises(EditError, match=r"case 0: a step of its target vector is too large.*v_lr, which is 1e\+30"):
        editor_on(model, build_tokenizer(), hparams_for("llama", v_lr=1e30, wohk=wohk)).edit(requests_for(0, 1))
    assert attributes_and_hooks_of(model) == before


def test_an_update_without_an_effect_is_not_blamed_on_the_length_of_the_prompt() -> None:
    hparams = hparams_for("llama", v_num_grad_steps=1)  # the target vector is the unchanged output
    with pytest.raises(EditError, match=r"has the same effect on all tokens of 'the capital.*v_num_grad_steps"):
        editor_on(build_model("llama"), build_tokenizer(), hparams).edit(requests_for(0))


def test_a_prompt_of_one_token_is_too_short_for_coachhook() -> None:
    request = EditRequest(7, "moon", "cheese", "moon")
    with pytest.raises(EditError, match=r"'moon' has no z-scores.*at least 2 that differ. Use a longer prompt"):
        editor_on(build_model("llama"), build_tokenizer(), hparams_for("llama")).edit([request])


@pytest.mark.parametrize("name", ["", "  ", ".weight"])
def test_an_empty_name_of_a_layer_is_not_answered_with_itself(name: str) -> None:
    with pytest.raises(ModelError, match=r"names no layer. Give the path of a module of LlamaForCausalLM"):
        find_module(build_model("llama"), name)


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_name_of_a_corpus_is_not_the_current_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.txt").write_text("a text in the current folder")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"corpus \(mom2_dataset\): no name is given"):
        find_corpus(name)


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS allows no such names")
def test_a_path_that_is_not_utf8_is_blamed_and_not_the_folder(tmp_path: Path) -> None:
    model, bad = build_model("llama"), Path(os.fsdecode(os.fsencode(tmp_path) + b"/edits\xff"))
    hparams = GraceHyperParams(model_name="tiny", inner_params=["model.layers[1].mlp.down_proj"], n_iter=2)
    apply_grace_to_model(model, build_tokenizer(), requests_for(0), hparams)
    with pytest.raises(RunError, match=r"not valid UTF-8.*Give the folder another name"):
        save_edits(model, bad)
    save_edits(model, tmp_path / "edits")
    shutil.copytree(tmp_path / "edits", bad, dirs_exist_ok=True)
    with pytest.raises(RunError, match=r"not valid UTF-8.*Give the folder another name"):
        load_edits(build_model("llama"), bad)


@pytest.mark.parametrize(
    ("layer", "reason"), [("model.embed_tokens", "reads token ids"), ("model.layers", "is a list of layers")]
)
def test_a_layer_without_activations_is_refused_by_name(layer: str, reason: str) -> None:
    hparams = GraceHyperParams(model_name="tiny", inner_params=[layer])
    with pytest.raises(ModelError, match=rf"inner_params: {layer} {reason}, so its input can't be a query"):
        apply_grace_to_model(build_model("llama"), build_tokenizer(), requests_for(0), hparams)


@pytest.mark.parametrize("inner", ["act_fn", "up_proj"])
def test_a_layer_that_is_not_the_block_of_the_projection_is_refused(inner: str) -> None:
    hparams = hparams_for("llama", layer_module_tmp=f"model.layers.{{}}.mlp.{inner}")
    with pytest.raises(
        ModelError, match=rf"layer_module_tmp: model\.layers\.\d\.mlp\.{inner} does not contain .*down_proj"
    ):
        check_model(build_model("llama"), build_tokenizer(), hparams)


def test_a_million_contexts_are_refused() -> None:
    with pytest.raises(HyperParameterError, match="context_template_length_params: asks for more than 1000 contexts"):
        hparams_for("llama", context_template_length_params=[[5, 600], [10, 401]])


def test_a_token_that_the_model_does_not_embed_is_named() -> None:
    """A tokenizer can have more tokens than the model, as that of Gemma 3."""
    model, tokenizer = build_model("llama"), build_tokenizer()
    tokenizer.add_tokens([f"added{n}" for n in range(100)])
    hparams = GraceHyperParams(model_name="tiny", inner_params=["model.layers[1].mlp.down_proj"], n_iter=2)
    request = {"prompt": "the capital of France is", "target_new": "added99"}
    with pytest.raises(DataError, match=r"the token 'added99' \(number \d+\) is not in the vocabulary of the model"):
        apply_grace_to_model(model, tokenizer, [request], hparams)
    apply_grace_to_model(model, tokenizer, requests_for(0), hparams)


def test_a_path_with_a_nul_character_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="can't make this folder"):
        RunFolder(tmp_path / "a\0b")
    with pytest.raises(DataError, match="can't be read"):
        read_retention(tmp_path / "a\0b")
