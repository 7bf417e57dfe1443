"""The native MEMIT's editor: its updates, rollback, and edits that fail or are refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from easyedit_lifelong import apply_memit_to_model, rollback_case, rollback_to_batch
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import DataError, EditError, ModelError
from easyedit_lifelong.methods.locate_edit import editor as editing
from easyedit_lifelong.methods.locate_edit.editing_passes import EditingPasses
from easyedit_lifelong.methods.locate_edit.update import AccumulatedKeys
from easyedit_lifelong.methods.memit.editor import MemitEditor
from easyedit_lifelong.methods.weight_updates.edited_layers import EditedLayers
from easyedit_lifelong.plugins import get_plugins
from tests.support.coachhook_edits import (
    FACTS,
    LEARNABLE_FACT,
    TEMPLATES,
    attributes_and_hooks_of,
    equal_states,
    moments_for,
    requests_for,
)
from tests.support.coachhook_edits import hparams_for as coachhook_hparams
from tests.support.failing_calls import damage_nth_call, interrupt, nans
from tests.support.memit_edits import TARGETS, editor_on, hparams_for, unedited
from tests.support.next_word import next_word
from tests.support.tiny_models import build_model, build_tokenizer, state_of

# ------------------------------------------------------------------ updates


def activations(model: Any, prompts: list[str], module: str, side: str) -> list[torch.Tensor]:
    """Return a module's input or output at every token of each prompt, read alone."""
    recorded: list[torch.Tensor] = []

    def record(_: Any, args: Any, output: Any) -> None:
        value = args[0] if side == "in" else output[0] if isinstance(output, tuple) else output
        recorded.append(value[0].detach().clone())

    handle = model.get_submodule(module).register_forward_hook(record)
    with torch.no_grad():
        for prompt in prompts:
            model(**build_tokenizer()(prompt, return_tensors="pt"))
    handle.remove()
    return recorded


def apply_reference_memit(model: Any, hparams: Any, numbers: tuple[int, ...], moments: Any) -> None:
    """Edit a model as section 4.3 of the MEMIT paper describes, for a tokenizer of whole words."""
    facts = [FACTS[number] for number in numbers]
    block = hparams.layer_module_tmp.format(hparams.layers[-1])
    for index, path in enumerate(hparams.rewrite_modules):
        keys = []
        for prompt, _, subject in facts:
            up_to_subject = prompt[: prompt.index(subject) + len(subject)]
            means = []
            for group in TEMPLATES:
                contexts = [template.replace("{}", up_to_subject) for template in group]
                means.append(torch.stack([inputs[-1] for inputs in activations(model, contexts, path, "in")]).mean(0))
            keys.append(torch.stack(means).mean(0))
        k = torch.stack(keys, dim=1)
        subject_ends = [prompt[: prompt.index(subject) + len(subject)] for prompt, _, subject in facts]
        h = torch.stack([outputs[-1] for outputs in activations(model, subject_ends, block, "out")], dim=1)
        r = (TARGETS[list(numbers)].double().t() - h) / (len(hparams.layers) - index)
        delta = r @ k.t() @ torch.linalg.inv(hparams.mom2_update_weight * moments[path].moment.double() + k @ k.t())
        weight = model.get_submodule(path).weight
        with torch.no_grad():
            weight += delta if weight.shape == delta.shape else delta.t()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_each_batch_gets_the_papers_update_without_the_keys_of_earlier_batches(family: str) -> None:
    model, tokenizer, hparams = unedited(family)
    model.double()
    reference = copy.deepcopy(model)
    moments = moments_for(model, hparams)
    for numbers in ((0, 1), (2, 3)):
        MemitEditor.on(model, tokenizer, hparams, moments, TEMPLATES).edit(
            requests_for(*numbers), TARGETS[list(numbers)]
        )
        apply_reference_memit(reference, hparams, numbers, moments)
    before = state_of(build_model(family).double())
    for name, weight in reference.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], weight, rtol=1e-6, atol=1e-8)
    changed = [name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])]
    assert changed == [f"{path}.weight" for path in hparams.rewrite_modules]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_edit_is_learned_and_generated(family: str, dtype: torch.dtype) -> None:
    model, tokenizer = build_model(family, dtype), build_tokenizer()
    prompt, target, subject = LEARNABLE_FACT
    hparams = hparams_for(family, layers=[2], mom2_update_weight=1e-3, v_num_grad_steps=30)
    results, _ = editor_on(model, tokenizer, hparams).edit([EditRequest(0, prompt, target, subject)])
    assert results[0].learned
    assert results[0].detail["batch"] == 1
    if family == "gemma2":
        return  # it normalises the output of its MLP, which limits the effect of the edit
    assert next_word(model, prompt) == target


def test_the_native_memit_does_not_take_the_name_of_easyedits_memit() -> None:
    methods = get_plugins().methods
    assert "MEMIT" not in methods
    method = get_plugins().method_for(hparams_for("llama"))
    assert method is methods.get("MEMIT-native")
    assert method.batchable
    assert get_plugins().method_for(coachhook_hparams("llama")) is methods.get("CoachHook")


# ------------------------------------------------------------------ rollback and failures


def test_rollback_restores_everything_bitwise(family: str, given_moments: None) -> None:
    model, tokenizer, hparams = unedited(family)
    before, modules = state_of(model), attributes_and_hooks_of(model)
    edited_model, rollback = apply_memit_to_model(model, tokenizer, requests_for(), hparams)
    assert edited_model is model
    assert [result.case_id for result in rollback.results] == [0, 1, 2, 3]
    assert not equal_states(state_of(model), before)
    for _ in range(2):
        rollback()
        assert equal_states(state_of(model), before)
    assert attributes_and_hooks_of(model) == modules


def test_a_copy_is_edited_and_rolled_back_without_the_original(given_moments: None) -> None:
    model, tokenizer, hparams = unedited()
    before = state_of(model)
    copied, rollback = apply_memit_to_model(model, tokenizer, requests_for(0), hparams, copy=True)
    assert equal_states(state_of(model), before)
    second_copy, second_rollback = copy.deepcopy((copied, rollback))
    second_rollback()
    assert equal_states(state_of(second_copy), before)
    assert not equal_states(state_of(copied), before)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_batches_are_rolled_back_from_the_last_and_in_no_other_order(family: str) -> None:
    model, tokenizer, hparams = unedited(family)
    editor = editor_on(model, tokenizer, hparams)
    states, rollbacks = [state_of(model)], []
    for number in range(4):
        rollbacks.append(editor.edit(requests_for(number))[1])
        states.append(state_of(model))
    with pytest.raises(EditError, match="later MEMIT-native batches"):
        rollbacks[1]()
    rollbacks[3]()
    assert equal_states(state_of(model), states[3])
    rollback_to_batch(model, 1)
    assert equal_states(state_of(model), states[1])
    with pytest.raises(EditError, match="can't roll back to batch 2"):
        rollback_to_batch(model, 2)
    with pytest.raises(EditError, match=r"can't be rolled back one by one: .* \(rollback_to_batch, --to-batch\)\."):
        rollback_case(model, 0)
    rollbacks[0]()
    assert equal_states(state_of(model), states[0])
    assert MemitEditor.of(model) is None
    with pytest.raises(EditError, match=r"get a new one with MemitEditor\.on"):
        editor.edit(requests_for(0))


FAILURES: dict[str, tuple[Any, str, int, Any]] = {
    "the second layer's keys": (EditingPasses, "keys_and_outputs", 2, lambda result: (nans(result[0]), result[1])),
    "the last layer's residual": (EditingPasses, "keys_and_outputs", 3, lambda result: (result[0], nans(result[1]))),
    "the second batch's solve": (AccumulatedKeys, "solve", 5, nans),
    "the second batch's last layer": (EditedLayers, "apply", 6, interrupt),
    "the second batch's target vectors": (editing, "optimise_block_targets", 2, interrupt),
}
"""By name: the class or module, its function, the number of the call that fails, and how its result is damaged."""


@pytest.mark.parametrize("edited_before", [(), (3,)], ids=["unedited", "edited"])
@pytest.mark.parametrize("failure", FAILURES)
def test_a_batch_that_fails_at_any_step_leaves_no_trace(
    failure: str, edited_before: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer, hparams = unedited(batch_size=1)
    if edited_before:
        editor_on(model, tokenizer, hparams).edit(requests_for(*edited_before))
    before, modules = state_of(model), attributes_and_hooks_of(model)
    owner, name, call, damage = FAILURES[failure]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, damage_nth_call(getattr(owner, name), call, damage))
        with pytest.raises((EditError, KeyboardInterrupt)):
            editor_on(model, tokenizer, hparams).edit(requests_for(0, 1))
    assert equal_states(state_of(model), before)
    assert attributes_and_hooks_of(model) == modules
    editor_on(model, tokenizer, hparams).edit(requests_for(0, 1))
    never_failed = build_model("llama")
    if edited_before:
        editor_on(never_failed, tokenizer, hparams).edit(requests_for(*edited_before))
    editor_on(never_failed, tokenizer, hparams).edit(requests_for(0, 1))
    assert equal_states(state_of(model), state_of(never_failed))


def test_missing_layers_missing_subjects_and_models_of_another_kind_are_refused() -> None:
    model, tokenizer, hparams = unedited()
    with pytest.raises(ModelError, match="layers: there is no block 9; the last one is 3"):
        MemitEditor.on(model, tokenizer, hparams_for("llama", layers=[1, 9]))
    check_requests = get_plugins().methods.get("MEMIT-native").check_requests
    assert check_requests is not None
    with pytest.raises(DataError, match=r"record 7 .*field 'subject': is missing"):
        check_requests(model, tokenizer, hparams, [EditRequest(7, "who wrote Hamlet", "Peru", source="record 7")])
    with pytest.raises(ModelError, match="MEMIT-native edits causal language models"):
        MemitEditor.on(torch.nn.Linear(2, 2), tokenizer, hparams)


def test_there_must_be_one_target_vector_for_each_request() -> None:
    model, tokenizer, hparams = unedited()
    editor = editor_on(model, tokenizer, hparams)
    before = state_of(model)
    with pytest.raises(EditError, match="1 target vectors for 4 requests"):
        editor.edit(requests_for(), TARGETS[:1])
    assert equal_states(state_of(model), before)
