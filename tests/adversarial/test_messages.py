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
from easyedit_lifelong.errors import DataError, EditError, ModelError, RunError
from easyedit_lifelong.models.modules import find_module
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
