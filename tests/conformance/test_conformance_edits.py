"""Every method: what an edit does to a model, and that nothing of it is left after a rollback or a failure."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch

from easyedit_lifelong import LifelongError, get_plugins
from tests.conformance.method_cases import CASES, LAYOUTS, REQUESTS, MethodCase, each_case, each_family
from tests.conformance.observe import PROMPTS, assert_unchanged, differing, equal, logits_of, picture_of
from tests.support.tiny_models import build_model, build_tokenizer


def test_the_table_names_every_registered_method() -> None:
    registered = {method.name for method in get_plugins().methods}
    assert {case.method.name for case in CASES} == registered, "add a line to CASES in method_cases.py"
    assert len({case.name for case in CASES}) == len(CASES)


# ------------------------------------------------------------------ rollback


@each_family
@each_case
def test_a_rollback_restores_the_model(case: MethodCase, family: str) -> None:
    model = build_model(family)
    before = picture_of(model)
    rollback = case.apply(model, family=family)
    assert set(differing(logits_of(model), before.logits)) >= {request["prompt"] for request in REQUESTS}
    rollback()
    assert_unchanged(model, before)
    rollback()
    assert_unchanged(model, before)


@each_case
def test_calls_are_rolled_back_in_reverse_order(case: MethodCase) -> None:
    model = build_model("llama")
    pictures, rollbacks = [picture_of(model)], []
    for requests in (REQUESTS[:1], REQUESTS[1:3], REQUESTS[3:]):
        rollbacks.append(case.apply(model, requests))
        pictures.append(picture_of(model))
        assert not equal(pictures[-1].logits, pictures[-2].logits)
    for number in (2, 1, 0):
        rollbacks[number]()
        assert_unchanged(model, pictures[number])


# ------------------------------------------------------------------ failures

_UNUSABLE: dict[str, dict[str, Any]] = {
    "no target": {"case_id": "bad", "prompt": "blue sea", "target_new": "", "subject": "sea"},
    "no prompt": {"case_id": "bad", "prompt": "", "target_new": "snow", "subject": "sea"},
}


@pytest.mark.parametrize("unusable", _UNUSABLE)
@each_case
def test_a_request_that_cannot_be_edited_leaves_no_trace(case: MethodCase, unusable: str) -> None:
    model = build_model("llama")
    before = picture_of(model)
    requests = [REQUESTS[0], _UNUSABLE[unusable], REQUESTS[1]]
    with pytest.raises(LifelongError):
        case.apply(model, requests)
    assert_unchanged(model, before)
    rollback = case.apply(model, REQUESTS[:1])
    edited = picture_of(model)
    with pytest.raises(LifelongError):
        case.apply(model, requests[1:])
    assert_unchanged(model, edited)
    rollback()
    assert_unchanged(model, before)


@each_case
def test_activations_that_are_not_numbers_leave_no_trace(case: MethodCase) -> None:
    if not case.reads_activations:
        pytest.skip(f"{case.method.name} reads no activations")
    model = build_model("llama")
    case.apply(model, REQUESTS[:1])()  # computes second moments, which the hook below must not spoil
    spoiled = build_tokenizer()("green")["input_ids"][0]

    def spoil(_: Any, args: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        return output.masked_fill((args[0] == spoiled).unsqueeze(-1), float("nan"))

    model.get_submodule(LAYOUTS["llama"].embedding).register_forward_hook(spoil)
    rollback = case.apply(model, REQUESTS[:1])
    edited, prompts = picture_of(model), [prompt for prompt in PROMPTS if "green" not in prompt]
    edited.logits = logits_of(model, prompts)
    with pytest.raises(LifelongError):
        case.apply(model, REQUESTS[1:])
    now = picture_of(model)
    assert now.modules == edited.modules
    assert all(torch.equal(tensor, edited.state[name]) for name, tensor in now.state.items())
    assert equal(logits_of(model, prompts), edited.logits)
    rollback()


# ------------------------------------------------------------------ copies


@each_case
def test_deep_copies_are_independent(case: MethodCase) -> None:
    model = build_model("llama")
    unedited = picture_of(model)
    rollback = case.apply(model, REQUESTS[:2])
    first = picture_of(model)
    twin = copy.deepcopy(model)
    assert_unchanged(twin, first)
    undo = case.apply(twin, REQUESTS[2:])
    second = picture_of(twin)
    assert not equal(second.logits, first.logits)
    assert_unchanged(model, first)
    rollback()
    assert_unchanged(model, unedited)
    assert_unchanged(twin, second)
    undo()
    assert_unchanged(twin, first)


@each_case
def test_a_copy_is_edited_instead_of_the_model_if_asked_for(case: MethodCase) -> None:
    model = build_model("llama")
    before = picture_of(model)
    twin, rollback = case.method.apply(model, build_tokenizer(), REQUESTS, case.hparams(), copy=True)
    assert twin is not model
    assert_unchanged(model, before)
    assert set(differing(logits_of(twin), before.logits)) >= {request["prompt"] for request in REQUESTS}
    rollback()
    assert_unchanged(twin, before)


# ------------------------------------------------------------------ two methods on one model


_NOTHING = torch.empty(0)


def _pairs() -> list[tuple[MethodCase, MethodCase]]:
    """Return each case beside the next one of another method, in both orders."""
    pairs = []
    for number, one in enumerate(CASES):
        following = [*CASES[number + 1 :], *CASES[:number]]
        other = next(case for case in following if case.hparams_class is not one.hparams_class)
        pairs += [(one, other), (other, one)]
    return list(dict.fromkeys(pairs))


@pytest.mark.parametrize(("first", "second"), _pairs(), ids=lambda case: case.name)
def test_two_methods_on_one_model(first: MethodCase, second: MethodCase) -> None:
    model = build_model("llama")
    unedited = picture_of(model)
    undo_first = first.apply(model, REQUESTS[:2])
    one = picture_of(model)
    undo_second = second.apply(model, REQUESTS[2:])
    both = picture_of(model)
    prompts = {request["prompt"] for request in REQUESTS}
    assert set(differing(both.logits, unedited.logits)) >= prompts
    undo_second()
    assert_unchanged(model, one)
    undo_second = second.apply(model, REQUESTS[2:])
    undo_first()
    left = picture_of(model)
    kept = [name for name, tensor in both.state.items() if not torch.equal(tensor, one.state.get(name, _NOTHING))]
    assert [name for name in kept if not torch.equal(left.state[name], both.state[name])] == []
    # Where the first method's edits moved what the second one's keys are compared with, the second ones do not answer.
    assert kept or set(differing(left.logits, unedited.logits)) >= {request["prompt"] for request in REQUESTS[2:]}
    undo_second()
    assert_unchanged(model, unedited)


@each_case
def test_a_failed_edit_leaves_the_settings_of_those_before_it(case: MethodCase) -> None:
    if not case.reads_activations:
        pytest.skip(f"{case.name} reads no activations, so no prompt is too long for it")
    store, model, hparams = case.port("edits"), build_model("llama"), case.hparams()
    case.apply(model, REQUESTS[:2])
    (before,) = store.parts(model)
    steps = "n_iter" if hasattr(hparams, "n_iter") else "v_num_grad_steps"
    too_long = {**REQUESTS[2], "prompt": REQUESTS[2]["prompt"] + " old" * 5000}
    with pytest.raises(LifelongError):
        case.method.apply(model, build_tokenizer(), [too_long], dataclasses.replace(hparams, **{steps: 3}))
    (after,) = store.parts(model)
    assert after.hparams == before.hparams
