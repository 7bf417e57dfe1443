"""A CoachHook edit that fails or is refused leaves the model bitwise as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import DataError, EditError, ModelError
from easyedit_lifelong.methods.coachhook.editor import CoachHookEditor
from easyedit_lifelong.methods.coachhook.hook_layers import HookLayers, WeightsWithoutHooks
from easyedit_lifelong.methods.locate_edit import editor as editing
from easyedit_lifelong.methods.locate_edit.editing_passes import EditingPasses
from easyedit_lifelong.methods.locate_edit.update import AccumulatedKeys
from tests.support.coachhook_edits import editor_on, equal_states, hparams_for, requests_for
from tests.support.coachhook_snapshots import Snapshot
from tests.support.failing_calls import damage_nth_call, interrupt, nans
from tests.support.tiny_models import build_model, build_tokenizer, state_of

FAILURES: dict[str, tuple[Any, str, int, Callable[[Any], Any]]] = {
    "the first layer's keys": (EditingPasses, "keys_and_outputs", 1, lambda result: (nans(result[0]), result[1])),
    "the first layer's residual": (EditingPasses, "keys_and_outputs", 1, lambda result: (result[0], nans(result[1]))),
    "the second layer's keys": (EditingPasses, "keys_and_outputs", 2, lambda result: (nans(result[0]), result[1])),
    "the last layer's residual": (EditingPasses, "keys_and_outputs", 3, lambda result: (result[0], nans(result[1]))),
    "the second layer's solve": (AccumulatedKeys, "solve", 2, nans),
    "the third layer's factor": (AccumulatedKeys, "add", 3, interrupt),
    "the second batch's solve": (AccumulatedKeys, "solve", 5, nans),
    "the alphas": (
        EditingPasses,
        "inputs_for_prompts",
        1,
        lambda result: ([nans(keys) for keys in result[0]], result[1]),
    ),
    "the end of the batch": (HookLayers, "finish_batch", 1, interrupt),
    "the end of the second batch": (HookLayers, "finish_batch", 2, interrupt),
    "the target vectors": (editing, "optimise_block_targets", 1, interrupt),
    "the second batch's target vectors": (editing, "optimise_block_targets", 2, interrupt),
}
"""By name: the class or module, its function, the number of the call that fails, and how its result is damaged."""

FAILURES_WITHOUT_HOOKS = ("the last layer's residual", "the second batch's solve", "the end of the second batch")


@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize(
    ("failure", "wohk"),
    [*((failure, False) for failure in FAILURES), *((failure, True) for failure in FAILURES_WITHOUT_HOOKS)],
)
def test_a_batch_that_fails_at_any_step_leaves_no_trace(
    failure: str, wohk: bool, edited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    model.train()
    hparams = hparams_for("llama", batch_size=1, v_num_grad_steps=4, wohk=wohk)
    if edited:
        editor_on(model, tokenizer, hparams).edit(requests_for(3))
    before = Snapshot(model)
    owner, name, call, damage = FAILURES[failure]
    if wohk and owner is HookLayers:
        owner = WeightsWithoutHooks
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, damage_nth_call(getattr(owner, name), call, damage))
        with pytest.raises((EditError, KeyboardInterrupt)):
            editor_on(model, tokenizer, hparams).edit(requests_for(0, 1))
    before.assert_unchanged(model)
    editor_on(model, tokenizer, hparams).edit(requests_for(0, 1))
    never_failed = build_model("llama")
    if edited:
        editor_on(never_failed, tokenizer, hparams).edit(requests_for(3))
    editor_on(never_failed, tokenizer, hparams).edit(requests_for(0, 1))
    assert equal_states(state_of(model), state_of(never_failed))


@pytest.mark.parametrize("edited", [False, True])
def test_an_invalid_record_is_named_and_leaves_no_trace(edited: bool) -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    if edited:
        editor_on(model, tokenizer, hparams_for("llama", batch_size=1)).edit(requests_for(3))
    before = Snapshot(model)
    invalid = EditRequest(9, "the capital of France is", "Rome", "Peru", source="facts.json, record 9")
    with pytest.raises(DataError, match=r"facts.json, record 9"):
        editor_on(model, tokenizer, hparams_for("llama", batch_size=1)).edit([*requests_for(0, 1), invalid])
    before.assert_unchanged(model)


def test_a_prompt_with_two_targets_in_one_batch_is_refused_with_both_records() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    before = Snapshot(model)
    contradictory = [
        EditRequest(number, "the capital of France is", target, "France", source=f"record {number}")
        for number, target in enumerate(["Rome", "Peru"])
    ]
    with pytest.raises(EditError, match=r"record 1 .*field 'prompt': record 0 "):
        editor_on(model, tokenizer, hparams_for("llama")).edit(contradictory)
    before.assert_unchanged(model)
    editor_on(model, tokenizer, hparams_for("llama", batch_size=1)).edit(contradictory)


@pytest.mark.parametrize("prompt", ["France", "France France France"])
def test_a_prompt_without_z_scores_is_refused_with_its_record(prompt: str) -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    before = Snapshot(model)
    request = EditRequest(3, prompt, "Rome", "France", source="facts.json, record 3")
    hparams = hparams_for("llama", layers=[0])  # the same word three times has three different keys further up
    if prompt == "France":
        with pytest.raises(EditError, match=r"facts.json, record 3 .*field 'prompt': 'France.* no z-scores"):
            editor_on(model, tokenizer, hparams).edit([request])
        before.assert_unchanged(model)
    else:
        editor_on(model, tokenizer, hparams).edit([request])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("layers", [1, 4], "layers: there is no block 4; the last one is 3"),
        ("rewrite_module_tmp", "model.layers.{}.mlp.c_proj", "rewrite_module_tmp: .* 'c_proj'"),
        ("layer_module_tmp", "transformer.h.{}", "layer_module_tmp: "),
        ("rewrite_module_tmp", "model.layers.{}.mlp", "rewrite_module_tmp: .* is not a linear projection"),
        ("rewrite_module_tmp", "model.layers.{}.input_layernorm", "rewrite_module_tmp: .* is not a linear projection"),
        ("v_loss_layer", 4, "v_loss_layer: there is no block 4"),
    ],
)
def test_layers_that_the_model_lacks_are_refused_by_setting(name: str, value: Any, message: str) -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    before = Snapshot(model)
    hparams = hparams_for("llama", **{name: value})
    with pytest.raises(ModelError, match=message):
        CoachHookEditor.on(model, tokenizer, hparams, {})
    before.assert_unchanged(model)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layers", [1, 2]),
        ("num_layers", 1),
        ("fact_token", "last"),
        ("alpha_z", 1.0),
        ("wohk", True),
        ("mom2_update_weight", 5.0),
    ],
)
def test_an_edited_model_refuses_other_settings(name: str, value: Any) -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    editor_on(model, tokenizer, hparams_for("llama")).edit(requests_for(0))
    before = Snapshot(model)
    with pytest.raises(EditError, match=f"made with {name}="):
        editor_on(model, tokenizer, hparams_for("llama", **{name: value}))
    before.assert_unchanged(model)
    editor_on(model, tokenizer, hparams_for("llama", v_lr=0.3, batch_size=5)).edit(requests_for(1))
