"""``apply_coachhook_to_model`` accepts EasyEdit's arguments, edits the model or a copy, and returns a rollback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong import apply_coachhook_to_model
from easyedit_lifelong.errors import DataError, EditError
from easyedit_lifelong.methods.coachhook.editor import CoachHookEditor, coachhook_editor
from easyedit_lifelong.methods.locate_edit import editor as editing
from easyedit_lifelong.plugins import get_plugins
from tests.support.coachhook_edits import FACTS, equal_states, hparams_for, moments_for
from tests.support.corpus import write_corpus
from tests.support.tiny_models import build_model, build_tokenizer, state_of

RECORDS = [{"prompt": prompt, "target_new": target, "subject": subject} for prompt, target, subject in FACTS]
HPARAMS = hparams_for("llama", v_num_grad_steps=4)


@pytest.fixture(autouse=True)
def _moments_without_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editing, "second_moments", lambda model, *_, **__: moments_for(model, HPARAMS))


@pytest.fixture
def model() -> Any:
    return build_model("llama")


def test_the_given_model_is_edited_in_batches_and_rolled_back_from_the_last(model: Any) -> None:
    edited, rollback = apply_coachhook_to_model(model, build_tokenizer(), RECORDS, HPARAMS)
    assert edited is model
    assert [result.case_id for result in rollback.results] == [0, 1, 2, 3]
    assert [result.detail["batch"] for result in rollback.results] == [1, 1, 2, 2]
    assert [result.steps for result in rollback.results] == [3] * 4
    json.dumps([result.to_dict() for result in rollback.results], allow_nan=False)
    _, second_rollback = apply_coachhook_to_model(model, build_tokenizer(), RECORDS[:1], HPARAMS)
    assert second_rollback.results[0].detail["batch"] == 3
    with pytest.raises(EditError, match="later CoachHook batches"):
        rollback()
    assert not rollback.done
    second_rollback()
    rollback()
    assert rollback.done
    rollback()
    assert CoachHookEditor.of(model) is None


def test_results_without_hooks_are_json(model: Any) -> None:
    hparams = hparams_for("llama", v_num_grad_steps=4, wohk=True)
    _, rollback = apply_coachhook_to_model(model, build_tokenizer(), RECORDS, hparams)
    json.dumps([result.to_dict() for result in rollback.results], allow_nan=False)


def test_with_copy_a_copy_is_edited_and_the_given_model_stays_unedited(model: Any) -> None:
    before = state_of(model)
    edited, rollback = apply_coachhook_to_model(model, build_tokenizer(), RECORDS[:2], HPARAMS, copy=True)
    assert edited is not model
    assert equal_states(state_of(model), before)
    assert CoachHookEditor.of(model) is None
    assert len(coachhook_editor(edited).state.batches) == 1
    second_copy, _ = apply_coachhook_to_model(edited, build_tokenizer(), RECORDS[2:], HPARAMS, copy=True)
    assert len(coachhook_editor(second_copy).state.batches) == 2
    assert len(coachhook_editor(edited).state.batches) == 1
    rollback()
    assert equal_states(state_of(edited), before)


@pytest.mark.parametrize("wohk", [False, True])
@pytest.mark.parametrize("keep", [False, True])
def test_iterating_over_the_rollback_undoes_edits_only_with_keep_original_weight(
    model: Any, keep: bool, wohk: bool
) -> None:
    # EasyEdit's release iterates over `.items()` to copy weights back; without keep_original_weight, edits must stay.
    before = state_of(model)
    hparams = hparams_for("llama", v_num_grad_steps=4, wohk=wohk)
    _, rollback = apply_coachhook_to_model(model, build_tokenizer(), RECORDS[:2], hparams, keep_original_weight=keep)
    edited = state_of(model)
    assert not equal_states(edited, before)
    assert list(rollback.items()) == []
    assert equal_states(state_of(model), before if keep else edited)
    rollback()
    assert equal_states(state_of(model), before)


def test_arguments_of_other_methods_are_ignored(model: Any) -> None:
    apply_coachhook_to_model(
        model, build_tokenizer(), RECORDS[:1], HPARAMS, False, True, True, train_ds=None, cache_template=None
    )


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "no requests"),
        ([{"prompt": "x", "target_new": "y"}], "request 0.*field 'subject'"),
        ([RECORDS[0], {**RECORDS[1], "subject": "Peru"}], "request 1.*field 'subject'"),
        ([RECORDS[0], {"prompt": "x"}], "request 1.*field 'target_new'"),
        ([3], "request 0"),
    ],
)
def test_invalid_requests_are_named_and_leave_the_model_unedited(model: Any, records: list[Any], message: str) -> None:
    before = state_of(model)
    with pytest.raises(DataError, match=message):
        apply_coachhook_to_model(model, build_tokenizer(), records, HPARAMS)
    assert CoachHookEditor.of(model) is None
    assert equal_states(state_of(model), before)


def test_coachhook_is_registered_with_its_apply_function_and_check(model: Any) -> None:
    method = get_plugins().method_for(HPARAMS)
    assert method is not None
    assert method.name == "CoachHook"
    assert method.batchable
    assert method.apply is apply_coachhook_to_model
    assert method.check is not None
    method.check(model, build_tokenizer(), HPARAMS)


def test_editing_inside_no_grad_still_optimises(model: Any) -> None:
    with torch.no_grad():
        _, rollback = apply_coachhook_to_model(model, build_tokenizer(), RECORDS[:2], HPARAMS)
    assert [result.steps for result in rollback.results] == [3, 3]


def test_a_model_in_training_mode_is_edited_as_in_evaluation_mode() -> None:
    evaluated, trained = build_model("gpt2"), build_model("gpt2")
    for module in trained.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    trained.train()
    hparams = hparams_for("gpt2", v_num_grad_steps=4)
    for model in (evaluated, trained):
        CoachHookEditor.on(model, build_tokenizer(), hparams, moments_for(model, hparams))
        apply_coachhook_to_model(model, build_tokenizer(), RECORDS[:2], hparams)
    assert equal_states(state_of(evaluated), state_of(trained))
    assert trained.training


@pytest.mark.parametrize("spelling", ["model.layers[{}].mlp.down_proj", "model.layers.{}.mlp.down_proj.weight"])
def test_easyedits_other_spellings_of_a_layer_are_accepted(
    model: Any, spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # computes second moments, which also need the path of the layer
    write_corpus(tmp_path)
    hparams = hparams_for(
        "llama",
        v_num_grad_steps=4,
        rewrite_module_tmp=spelling,
        mom2_dataset=str(tmp_path / "corpus.txt"),
        mom2_n_samples=None,
        mom2_n_tokens=1000,
        stats_dir=str(tmp_path),
    )
    _, rollback = apply_coachhook_to_model(model, build_tokenizer(), RECORDS[:2], hparams)
    assert len(rollback.results) == 2
