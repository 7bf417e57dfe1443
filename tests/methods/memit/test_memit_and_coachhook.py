"""The native MEMIT and CoachHook on one model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong import load_edits, rollback_to_batch, save_edits
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.coachhook.editor import CoachHookEditor
from easyedit_lifelong.methods.locate_edit.moments import second_moments
from easyedit_lifelong.methods.memit.editor import MemitEditor
from tests.support.coachhook_edits import attributes_and_hooks_of, equal_states, moments_for, requests_for
from tests.support.coachhook_edits import editor_on as coachhook_on
from tests.support.coachhook_edits import hparams_for as coachhook_hparams
from tests.support.memit_edits import editor_on, hparams_for, unedited
from tests.support.tiny_models import build_model, state_of


@pytest.mark.parametrize("coachhook_undone_first", [False, True])
@pytest.mark.parametrize("coachhook_first", [False, True])
def test_memit_and_hook_layers_on_the_same_projections_are_rolled_back_in_any_order(
    coachhook_first: bool, coachhook_undone_first: bool
) -> None:
    model, tokenizer, hparams = unedited()
    before, modules = state_of(model), attributes_and_hooks_of(model)

    def edit_with_coachhook() -> Any:
        return coachhook_on(model, tokenizer, coachhook_hparams("llama", v_num_grad_steps=4)).edit(requests_for(0))[1]

    def edit_with_memit() -> Any:
        return editor_on(model, tokenizer, hparams).edit(requests_for(1))[1]

    if coachhook_first:
        undo_coachhook, undo_memit = edit_with_coachhook(), edit_with_memit()
    else:
        undo_memit, undo_coachhook = edit_with_memit(), edit_with_coachhook()
    for undo in [undo_coachhook, undo_memit] if coachhook_undone_first else [undo_memit, undo_coachhook]:
        undo()
    assert equal_states(state_of(model), before)
    assert attributes_and_hooks_of(model) == modules


def test_a_second_method_that_writes_into_the_same_weights_is_refused() -> None:
    """Otherwise the rollback of the first method would remove the edits of the second."""
    model, tokenizer, hparams = unedited()
    editor_on(model, tokenizer, hparams).edit(requests_for(0))
    before, modules = state_of(model), attributes_and_hooks_of(model)
    with pytest.raises(EditError, match=r"weights of model.layers.0.mlp.down_proj carry MEMIT-native edits already"):
        coachhook_on(model, tokenizer, coachhook_hparams("llama", wohk=True))
    assert CoachHookEditor.of(model) is None
    assert equal_states(state_of(model), before)
    assert attributes_and_hooks_of(model) == modules
    coachhook_on(model, tokenizer, coachhook_hparams("llama", wohk=True, layers=[3])).edit(requests_for(1))


def test_two_methods_in_different_weights_share_the_unedited_models_second_moments(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    computed_unedited: list[bool] = []
    unedited_state = state_of(build_model("llama"))

    def obtain(model: Any, _: Any, paths: Any, **__: Any) -> Any:
        now = state_of(model)
        computed_unedited.append(all(torch.equal(now[name], tensor) for name, tensor in unedited_state.items()))
        return {path: moment for path, moment in moments_for(model, hparams_for("llama")).items() if path in paths}

    monkeypatch.setattr("easyedit_lifelong.methods.shared.second_moments.obtain_moments", obtain)
    model, tokenizer, hparams = unedited(layers=[0, 1], context_template_length_params=[])
    undo = MemitEditor.on(model, tokenizer, hparams).edit(requests_for(0))[1]
    wohk = coachhook_hparams("llama", layers=[2], wohk=True, context_template_length_params=[])
    CoachHookEditor.on(model, tokenizer, wohk).edit(requests_for(1))
    second_moments(model, tokenizer, wohk)  # as a run does before its first edit
    assert computed_unedited == [True, True, True]
    both_edited = state_of(model)
    save_edits(model, tmp_path / "both")
    loaded = build_model("llama")
    load_edits(loaded, tmp_path / "both")
    assert equal_states(state_of(loaded), both_edited)
    undo()
    save_edits(model, tmp_path / "second")  # made after MEMIT's edits, and yet loadable without them
    load_edits(build_model("llama"), tmp_path / "second")
    rollback_to_batch(model, 0)
    assert equal_states(state_of(model), unedited_state)


def test_memit_edits_and_rolls_back_below_the_hook_layers_of_coachhook(given_moments: None) -> None:
    model, tokenizer, hparams = unedited(layers=[0, 1])
    hooks = coachhook_hparams("llama", layers=[2], context_template_length_params=[])
    coachhook_on(model, tokenizer, hooks).edit(requests_for(0))
    hooked = state_of(model)
    result, undo = editor_on(model, tokenizer, hparams).edit(requests_for(1))
    assert result[0].steps > 0 and not equal_states(state_of(model), hooked)
    undo()
    assert equal_states(state_of(model), hooked)
