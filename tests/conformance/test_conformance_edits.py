"""Every method: edits change the answers, and a rollback or a failed edit leaves no trace."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from easyedit_lifelong import LifelongError, get_plugins
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.hypernetworks.config import HypernetworkHyperParams
from tests.conformance.method_cases import CASES, LAYOUTS, REQUESTS, MethodCase, each_case, each_case_with, each_family
from tests.conformance.observe import PROMPTS, assert_unchanged, differing, equal, logits_of, snapshot_of
from tests.support.tiny_models import DEVICE, build_model, build_tokenizer


def test_the_table_names_every_registered_method() -> None:
    registered = {method.name for method in get_plugins().methods}
    assert {case.method.name for case in CASES} == registered, (
        "CASES in method_cases.py must have a line for every registered method"
    )
    assert len({case.name for case in CASES}) == len(CASES)


# ------------------------------------------------------------------ rollback


@each_family
@each_case
def test_a_rollback_restores_the_model_bitwise_and_can_be_repeated(case: MethodCase, family: str) -> None:
    model = build_model(family)
    before = snapshot_of(model)
    rollback = case.apply(model, family=family)
    assert set(differing(logits_of(model), before.logits)) >= {request["prompt"] for request in REQUESTS}
    rollback()
    assert_unchanged(model, before)
    rollback()
    assert_unchanged(model, before)


@each_case
def test_rollbacks_of_several_calls_restore_the_model_before_each_call(case: MethodCase) -> None:
    model = build_model("llama")
    snapshots, rollbacks = [snapshot_of(model)], []
    for requests in (REQUESTS[:1], REQUESTS[1:3], REQUESTS[3:]):
        rollbacks.append(case.apply(model, requests))
        snapshots.append(snapshot_of(model))
        assert not equal(snapshots[-1].logits, snapshots[-2].logits)
    for number in (2, 1, 0):
        rollbacks[number]()
        assert_unchanged(model, snapshots[number])


# ------------------------------------------------------------------ adapters

_WITH_ADAPTERS = [case for case in CASES if not isinstance(case.hparams(), HypernetworkHyperParams)]
"""Methods that can edit a model with new adapters; a hypernetwork was trained for a model without."""


@pytest.mark.parametrize("case", _WITH_ADAPTERS, ids=lambda case: case.name)
def test_merging_an_adapter_under_edits_keeps_them_or_the_next_pass_is_refused(
    case: MethodCase, moments_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A model with an adapter has other second moments than the other tests' model, under the same name.
    shutil.copytree(moments_folder, tmp_path / "inputs", ignore=shutil.ignore_patterns("stats"))
    monkeypatch.chdir(tmp_path / "inputs")
    torch.manual_seed(0)
    config = LoraConfig(target_modules=["down_proj", "q_proj"], r=2, init_lora_weights=False)
    model = get_peft_model(build_model("llama"), config).eval()
    unedited = logits_of(model)
    case.apply(model, REQUESTS[:2])
    edited = logits_of(model)
    assert not equal(edited, unedited)
    merged = model.merge_and_unload()
    try:
        logits = logits_of(merged)
    except EditError as error:
        logits, message = edited, str(error)
    else:
        message = "merge_and_unload"
    assert "merge_and_unload" in message
    assert all(torch.allclose(*pair, atol=1e-3, rtol=1e-3) for pair in zip(logits, edited, strict=True))


# ------------------------------------------------------------------ failures

_UNUSABLE: dict[str, dict[str, Any]] = {
    "no target": {"case_id": "bad", "prompt": "blue sea", "target_new": "", "subject": "sea"},
    "no prompt": {"case_id": "bad", "prompt": "", "target_new": "snow", "subject": "sea"},
}


@pytest.mark.parametrize("unusable", _UNUSABLE)
@each_case
def test_a_request_that_cannot_be_edited_leaves_no_trace(case: MethodCase, unusable: str) -> None:
    model = build_model("llama")
    before = snapshot_of(model)
    requests = [REQUESTS[0], _UNUSABLE[unusable], REQUESTS[1]]
    with pytest.raises(LifelongError):
        case.apply(model, requests)
    assert_unchanged(model, before)
    rollback = case.apply(model, REQUESTS[:1])
    edited = snapshot_of(model)
    with pytest.raises(LifelongError):
        case.apply(model, requests[1:])
    assert_unchanged(model, edited)
    rollback()
    assert_unchanged(model, before)


@each_case
def test_an_edit_with_nan_activations_fails_and_leaves_no_trace(case: MethodCase) -> None:
    if not case.reads_activations:
        pytest.skip(f"{case.method.name} reads no activations")
    model = build_model("llama")
    case.apply(model, REQUESTS[:1])()  # computes second moments, before the hook below makes activations NaN
    nan_token = build_tokenizer()("green")["input_ids"][0]

    def insert_nan(_: Any, args: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        return output.masked_fill((args[0] == nan_token).unsqueeze(-1), float("nan"))

    model.get_submodule(LAYOUTS["llama"].embedding).register_forward_hook(insert_nan)
    rollback = case.apply(model, REQUESTS[:1])
    edited, prompts = snapshot_of(model), [prompt for prompt in PROMPTS if "green" not in prompt]
    edited.logits = logits_of(model, prompts)
    with pytest.raises(LifelongError):
        case.apply(model, REQUESTS[1:])
    now = snapshot_of(model)
    assert now.modules == edited.modules
    assert all(torch.equal(tensor, edited.state[name]) for name, tensor in now.state.items())
    assert equal(logits_of(model, prompts), edited.logits)
    rollback()


# ------------------------------------------------------------------ copies


@each_case
def test_deep_copies_are_independent(case: MethodCase) -> None:
    model = build_model("llama")
    unedited = snapshot_of(model)
    rollback = case.apply(model, REQUESTS[:2])
    first = snapshot_of(model)
    copied = copy.deepcopy(model)
    assert_unchanged(copied, first)
    undo_copy = case.apply(copied, REQUESTS[2:])
    second = snapshot_of(copied)
    assert not equal(second.logits, first.logits)
    assert_unchanged(model, first)
    rollback()
    assert_unchanged(model, unedited)
    assert_unchanged(copied, second)
    undo_copy()
    assert_unchanged(copied, first)


@each_case
def test_with_copy_a_copy_is_edited_and_the_model_stays_as_it_is(case: MethodCase) -> None:
    model = build_model("llama")
    before = snapshot_of(model)
    copied, rollback = case.method.apply(model, build_tokenizer(), REQUESTS, case.hparams(), copy=True)
    assert copied is not model
    assert_unchanged(model, before)
    assert set(differing(logits_of(copied), before.logits)) >= {request["prompt"] for request in REQUESTS}
    rollback()
    assert_unchanged(copied, before)


# ------------------------------------------------------------------ two methods on one model


_NOTHING = torch.empty(0, device=DEVICE)


def _pairs() -> list[tuple[MethodCase, MethodCase]]:
    """Return each case with the next one of another method, in both orders."""
    pairs = []
    for number, case in enumerate(CASES):
        following = [*CASES[number + 1 :], *CASES[:number]]
        partner = next(item for item in following if item.hparams_class is not case.hparams_class)
        pairs += [(case, partner), (partner, case)]
    return list(dict.fromkeys(pairs))


@pytest.mark.parametrize(("first", "second"), _pairs(), ids=lambda case: case.name)
def test_two_methods_on_one_model_both_answer_and_are_rolled_back_in_any_order(
    first: MethodCase, second: MethodCase
) -> None:
    model = build_model("llama")
    unedited = snapshot_of(model)
    undo_first = first.apply(model, REQUESTS[:2])
    first_only = snapshot_of(model)
    undo_second = second.apply(model, REQUESTS[2:])
    both = snapshot_of(model)
    prompts = {request["prompt"] for request in REQUESTS}
    assert set(differing(both.logits, unedited.logits)) >= prompts
    undo_second()
    assert_unchanged(model, first_only)
    undo_second = second.apply(model, REQUESTS[2:])
    undo_first()
    second_only = snapshot_of(model)
    of_second = [
        name for name, tensor in both.state.items() if not torch.equal(tensor, first_only.state.get(name, _NOTHING))
    ]
    assert [name for name in of_second if not torch.equal(second_only.state[name], both.state[name])] == []
    # The second method's keys were made on a model with the first method's edits, so they may not match without them.
    # Then at least the second method's state is still on the model.
    assert of_second or set(differing(second_only.logits, unedited.logits)) >= {
        request["prompt"] for request in REQUESTS[2:]
    }
    undo_second()
    assert_unchanged(model, unedited)


@each_case_with("edits")
def test_a_failed_edit_does_not_change_the_settings_of_earlier_edits(case: MethodCase) -> None:
    if not case.reads_activations:
        pytest.skip(f"{case.name} reads no activations, so no prompt is too long for it")
    store, model, hparams = case.method.edits, build_model("llama"), case.hparams()
    assert store is not None
    case.apply(model, REQUESTS[:2])
    (before,) = store.parts(model)
    other = dataclasses.replace(hparams, max_length=hparams.max_length + 1)
    too_long = {**REQUESTS[2], "prompt": REQUESTS[2]["prompt"] + " old" * 5000}
    with pytest.raises(LifelongError):
        case.method.apply(model, build_tokenizer(), [too_long], other)
    (after,) = store.parts(model)
    assert after.hparams == before.hparams
