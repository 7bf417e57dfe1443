"""Several editors on one model, taken off in every order: who was there first stays as if alone, at last nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from easyedit_lifelong import GraceHyperParams, apply_grace_to_model
from tests.support.coachhook_edits import FACTS, editor_on, hparams_for, requests_for, same_tensors
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


EDITORS: dict[str, Callable[[Any], Undo]] = {
    "CoachHook below": lambda model: coachhook_at(model, [0], 0, 1),
    "GRACE": lambda model: grace_at(model, 1, 2),
    "GRACE above": lambda model: grace_at(model, 3, 3),
}
ABOVE: dict[str, Callable[[Any], Undo]] = {
    "GRACE below": lambda model: grace_at(model, 0, 2),
    "CoachHook": lambda model: coachhook_at(model, [1, 2], 0, 1),
    "GRACE": lambda model: grace_at(model, 3, 3),
}


def parts_of(model: Any) -> dict[str, Any]:
    """All that is on every module: attributes by identity, hooks and children by name."""
    return {
        path: {
            name: list(value) if isinstance(value, dict) else value if callable(value) else id(value)
            for name, value in vars(module).items()
        }
        for path, module in model.named_modules()
    }


@pytest.mark.parametrize("editors", [EDITORS, ABOVE], ids=["CoachHook below GRACE", "GRACE below CoachHook"])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
@pytest.mark.parametrize("entered", [(0, 1, 2), (2, 1, 0)], ids=str)
def test_taken_off_in_every_order(
    editors: dict[str, Callable[[Any], Undo]], order: tuple[int, ...], entered: tuple[int, ...]
) -> None:
    model = build_model("llama")
    state, parts, unedited = state_of(model), parts_of(model), logits_of(model)
    names = list(editors)
    undo = {names[n]: editors[names[n]](model) for n in entered}
    assert not equal(logits_of(model), unedited)
    for n in order:
        undo.pop(names[n])()
        if list(undo) == [names[entered[0]]]:
            alone = build_model("llama")
            editors[names[entered[0]]](alone)
            assert equal(logits_of(model), logits_of(alone)), "made on the unedited model, it is what it was then"
            assert same_tensors(state_of(model), state_of(alone))
    assert same_tensors(state_of(model), state)
    assert parts_of(model) == parts
    assert equal(logits_of(model), unedited)


@pytest.mark.parametrize("first", ["GRACE", "GRACE above"])
def test_two_layers_of_grace_answer_for_themselves(first: str) -> None:
    """An edit in one layer changes nothing for prompts that it isn't about: neither does taking it off."""
    model = build_model("llama")
    unedited = logits_of(model)
    undo = {name: EDITORS[name](model) for name in ("GRACE", "GRACE above")}
    both = logits_of(model)
    changed = [n for n, (a, b) in enumerate(zip(both, unedited, strict=True)) if not torch.equal(a, b)]
    assert changed == [2, 3]
    undo.pop(first)()
    left = logits_of(model)
    stays = 3 if first == "GRACE" else 2
    for n, (now, before) in enumerate(zip(left, unedited, strict=True)):
        assert torch.equal(now, both[n] if n == stays else before)


def test_editing_twice_and_taking_off_the_second() -> None:
    """Calls of one editor are taken off from the last to the first; each leaves what there was before it."""
    model = build_model("llama")
    pictures, undo = [logits_of(model)], []
    for edit in (grace_at, grace_at, coachhook_at, coachhook_at):
        facts = [len(undo) % 4, (len(undo) + 1) % 4]
        undo.append(edit(model, 3 if edit is grace_at else [0, 1], *facts))  # type: ignore[operator]
        pictures.append(logits_of(model))
    for take_off, picture in zip(reversed(undo), reversed(pictures[:-1]), strict=True):
        take_off()
        assert equal(logits_of(model), picture)
