"""Several editors on one model, removed in any order: the model is then as if they had never been there."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from easyedit_lifelong import GraceHyperParams, apply_grace_to_model
from tests.support.coachhook_edits import FACTS, editor_on, equal_states, hparams_for, requests_for
from tests.support.saved_edits import equal, logits_of
from tests.support.tiny_models import build_model, build_tokenizer, state_of

Undo = Callable[[], None]


def grace_at(model: Any, layer: int, *facts: int) -> Undo:
    """Edit facts with GRACE in a layer."""
    name = f"model.layers[{layer}].mlp.down_proj.weight"
    hparams = GraceHyperParams(model_name="tiny", inner_params=[name], n_iter=8, eps=1.0)
    requests = [{"case_id": f"{layer}-{n}", "prompt": FACTS[n][0], "target_new": FACTS[n][1]} for n in facts]
    _, rollback = apply_grace_to_model(model, build_tokenizer(), requests, hparams)
    return rollback


def coachhook_at(model: Any, layers: list[int], *facts: int) -> Undo:
    """Edit facts with CoachHook in some layers."""
    hparams = hparams_for("llama", layers=layers, alpha_z=1.0, v_num_grad_steps=4)
    _, undo = editor_on(model, build_tokenizer(), hparams).edit(requests_for(*facts))
    return undo


COACHHOOK_BELOW: dict[str, Callable[[Any], Undo]] = {
    "CoachHook below": lambda model: coachhook_at(model, [0], 0, 1),
    "GRACE": lambda model: grace_at(model, 1, 2),
    "GRACE above": lambda model: grace_at(model, 3, 3),
}
COACHHOOK_ABOVE: dict[str, Callable[[Any], Undo]] = {
    "GRACE below": lambda model: grace_at(model, 0, 2),
    "CoachHook": lambda model: coachhook_at(model, [1, 2], 0, 1),
    "GRACE": lambda model: grace_at(model, 3, 3),
}


def attributes_of(model: Any) -> dict[str, Any]:
    """Return the attributes of every module: by identity, and hooks and children by name."""
    return {
        path: {
            name: list(value) if isinstance(value, dict) else value if callable(value) else id(value)
            for name, value in vars(module).items()
        }
        for path, module in model.named_modules()
    }


@pytest.mark.parametrize(
    "editors", [COACHHOOK_BELOW, COACHHOOK_ABOVE], ids=["CoachHook below GRACE", "GRACE below CoachHook"]
)
@pytest.mark.parametrize("undo_order", list(itertools.permutations(range(3))), ids=str)
@pytest.mark.parametrize("edit_order", [(0, 1, 2), (2, 1, 0)], ids=str)
def test_undoing_editors_in_any_order_restores_the_model(
    editors: dict[str, Callable[[Any], Undo]], undo_order: tuple[int, ...], edit_order: tuple[int, ...]
) -> None:
    model = build_model("llama")
    state, attributes, unedited = state_of(model), attributes_of(model), logits_of(model)
    names = list(editors)
    undo = {names[n]: editors[names[n]](model) for n in edit_order}
    assert not equal(logits_of(model), unedited)
    for n in undo_order:
        undo.pop(names[n])()
        if list(undo) == [names[edit_order[0]]]:
            alone = build_model("llama")
            editors[names[edit_order[0]]](alone)
            assert equal(logits_of(model), logits_of(alone)), (
                "the first editor, left alone, must be as on an unedited model"
            )
            assert equal_states(state_of(model), state_of(alone))
    assert equal_states(state_of(model), state)
    assert attributes_of(model) == attributes
    assert equal(logits_of(model), unedited)


@pytest.mark.parametrize("removed", ["GRACE", "GRACE above"])
def test_grace_edits_at_two_layers_do_not_affect_each_other(removed: str) -> None:
    """Making or removing an edit in one layer changes no logits of prompts that it isn't about."""
    model = build_model("llama")
    unedited = logits_of(model)
    undo = {name: COACHHOOK_BELOW[name](model) for name in ("GRACE", "GRACE above")}
    with_both = logits_of(model)
    changed = [n for n, (a, b) in enumerate(zip(with_both, unedited, strict=True)) if not torch.equal(a, b)]
    assert changed == [2, 3]
    undo.pop(removed)()
    with_one = logits_of(model)
    kept_prompt = 3 if removed == "GRACE" else 2
    for n, (now, before) in enumerate(zip(with_one, unedited, strict=True)):
        assert torch.equal(now, with_both[n] if n == kept_prompt else before)


def test_undoing_calls_in_reverse_restores_each_earlier_state() -> None:
    model = build_model("llama")
    snapshots, undo = [logits_of(model)], []
    for edit in (grace_at, grace_at, coachhook_at, coachhook_at):
        facts = [len(undo) % 4, (len(undo) + 1) % 4]
        undo.append(edit(model, 3 if edit is grace_at else [0, 1], *facts))  # type: ignore[operator]
        snapshots.append(logits_of(model))
    for undo_call, snapshot in zip(reversed(undo), reversed(snapshots[:-1]), strict=True):
        undo_call()
        assert equal(logits_of(model), snapshot)
