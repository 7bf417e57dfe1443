"""CoachHook's rollback is bitwise: batch after batch, on copies, and with GRACE on the same model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from easyedit_lifelong import GraceHyperParams, apply_grace_to_model
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.coachhook.editor import CoachHookEditor, coachhook_editor
from easyedit_lifelong.models.prompt_positions import PositionTracker
from tests.support.coachhook_edits import FACTS, editor_on, equal_states, hparams_for, requests_for
from tests.support.coachhook_snapshots import Snapshot, all_equal, logits_of
from tests.support.next_word import next_word
from tests.support.tiny_models import FAMILIES, build_model, build_tokenizer, state_of

VARIANTS: dict[str, dict[str, Any]] = {
    "hooks": {},
    "without hooks": {"wohk": True},
    "weighed scores": {"scope_score": "weighed", "alpha_z": 1.0},
}
"""Settings of CoachHook that store or choose edits differently."""


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_rollback_restores_everything_bitwise(family: str, options: dict[str, Any]) -> None:
    model, tokenizer = build_model(family), build_tokenizer()
    before = Snapshot(model)
    _, undo = editor_on(model, tokenizer, hparams_for(family, **options)).edit(requests_for())
    (edited_logits,) = logits_of(model, [FACTS[3][0]])
    assert not torch.equal(edited_logits, before.logits[3])
    undo()
    before.assert_unchanged(model)
    assert CoachHookEditor.of(model) is None
    assert PositionTracker.of(model) is None
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_batches_are_rolled_back_from_the_last_and_in_no_other_order(family: str, options: dict[str, Any]) -> None:
    model, tokenizer = build_model(family), build_tokenizer()
    hparams = hparams_for(family, **options, batch_size=1)
    editor = editor_on(model, tokenizer, hparams)
    snapshots, rollbacks = [Snapshot(model)], []
    for number in range(4):
        rollbacks.append(editor.edit(requests_for(number))[1])
        snapshots.append(Snapshot(model))
    with pytest.raises(EditError, match="later CoachHook batches"):
        rollbacks[1]()
    snapshots[4].assert_unchanged(model)
    for number in (3, 2, 1):
        rollbacks[number]()
        snapshots[number].assert_unchanged(model)

    assert len(editor.state.batches) == 1
    rollbacks[0]()
    assert equal_states(state_of(model), snapshots[0].state)
    assert CoachHookEditor.of(model) is None


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_edits_after_a_rollback_are_those_without_the_rolled_back_batch(family: str) -> None:
    model, tokenizer = build_model(family), build_tokenizer()
    editor = editor_on(model, tokenizer, hparams_for(family))
    editor.edit(requests_for(0, 1))
    editor.edit(requests_for(2))[1]()
    editor.edit(requests_for(3))
    expected_model = build_model(family)
    expected_editor = editor_on(expected_model, tokenizer, hparams_for(family))
    expected_editor.edit(requests_for(0, 1))
    expected_editor.edit(requests_for(3))
    assert equal_states(state_of(model), state_of(expected_model))
    assert editor.alphas == expected_editor.alphas


def test_a_deep_copy_is_edited_and_rolled_back_without_the_original() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    before = state_of(model)
    editor = editor_on(model, tokenizer, hparams_for("llama"))
    _, undo = editor.edit(requests_for(0, 1))
    edited = Snapshot(model)
    copied, undo_copy = copy.deepcopy((model, undo))
    undo_copy()
    assert equal_states(state_of(copied), before)
    assert PositionTracker.of(copied) is None
    edited.assert_unchanged(model)
    second_copy = copy.deepcopy(model)
    coachhook_editor(second_copy).edit(requests_for(2))
    edited.assert_unchanged(model)
    undo()
    assert equal_states(state_of(model), before)
    assert not all_equal(logits_of(second_copy), logits_of(model))


def test_an_editor_whose_batches_are_all_rolled_back_refuses_to_edit() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    editor = editor_on(model, tokenizer, hparams_for("llama"))
    editor.edit(requests_for(0))[1]()
    with pytest.raises(EditError, match=r"get a new one with CoachHookEditor\.on"):
        editor.edit(requests_for(1))


GRACE_EDIT = {"prompt": "snow and mountain", "target_new": "Peru"}


@pytest.mark.parametrize("grace_first", [True, False])
@pytest.mark.parametrize("grace_undone_first", [True, False])
def test_coachhook_and_grace_are_rolled_back_in_any_order(
    family: str, grace_first: bool, grace_undone_first: bool
) -> None:
    model, tokenizer = build_model(family), build_tokenizer()
    before = Snapshot(model)
    grace_hparams = GraceHyperParams(
        model_name="tiny", inner_params=[FAMILIES[family][1]], eps=0.5, n_iter=40, stop_loss=0.2
    )

    def edit_with_coachhook() -> Callable[[], None]:
        return editor_on(model, tokenizer, hparams_for(family)).edit(requests_for(0, 1))[1]

    def edit_with_grace() -> Any:
        _, rollback = apply_grace_to_model(model, tokenizer, [GRACE_EDIT], grace_hparams)
        assert rollback.results[0].learned
        return rollback

    if grace_first:
        undo_grace, undo_coachhook = edit_with_grace(), edit_with_coachhook()
    else:
        undo_coachhook, undo_grace = edit_with_coachhook(), edit_with_grace()
    assert next_word(model, GRACE_EDIT["prompt"]) == GRACE_EDIT["target_new"]
    for undo in [undo_grace, undo_coachhook] if grace_undone_first else [undo_coachhook, undo_grace]:
        undo()
    before.assert_unchanged(model)


@pytest.mark.parametrize("grace_layer", [0, 1, 3])
def test_grace_learns_below_and_above_hook_layers(grace_layer: int) -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    editor_on(model, tokenizer, hparams_for("llama")).edit(requests_for(0, 1))
    hparams = GraceHyperParams(
        model_name="tiny",
        inner_params=[f"model.layers[{grace_layer}].mlp.down_proj.weight"],
        eps=0.5,
        n_iter=60,
        stop_loss=0.2,
    )
    _, rollback = apply_grace_to_model(model, tokenizer, [GRACE_EDIT], hparams)
    assert rollback.results[0].learned
    assert next_word(model, GRACE_EDIT["prompt"]) == GRACE_EDIT["target_new"]
