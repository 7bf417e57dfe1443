"""Defer and Memory network: when they act, where they act, and what persists between edits."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from easyedit_lifelong import (
    DeferHyperParams,
    EditError,
    HyperParameterError,
    MemoryHyperParams,
    ModelError,
    RunError,
    apply_adaptor_to_model,
    explain,
    get_plugins,
)
from easyedit_lifelong.methods.trained_adaptors.adaptor import DeferAdaptor, MemoryAdaptor, TrainedAdaptor
from easyedit_lifelong.methods.trained_adaptors.editor import EDITORS, AdaptorEditor
from tests.conformance.method_cases import REQUESTS
from tests.conformance.observe import batch_of, logits_of
from tests.support.tiny_models import build_model, build_tokenizer, state_of

PATH = "model.layers.1.mlp.down_proj"
PLACE: dict[str, Any] = {"model_name": "tiny", "inner_params": [PATH]}
DEFER, MEMORY = DeferHyperParams(**PLACE, n_iter=25), MemoryHyperParams(**PLACE, n_iter=25, nkeys=5)
UNRELATED = "snow and mountain"

each_method = pytest.mark.parametrize("hparams", [DEFER, MEMORY], ids=lambda hparams: hparams.ALG_NAME)


def edit(model: Any, hparams: Any, requests: list[dict[str, Any]]) -> Any:
    return apply_adaptor_to_model(model, build_tokenizer(), requests, hparams)[1]


def editor_of(model: Any, hparams: Any) -> AdaptorEditor:
    (editor_class,) = (editor for editor in EDITORS if isinstance(hparams, editor.hparams_class))
    return editor_class.require(model)


def output_of_layer(model: Any, prompt: str) -> torch.Tensor:
    """Return the output of the edited layer for a prompt, shape ``(tokens, outputs)``."""
    outputs: list[torch.Tensor] = []
    with model.get_submodule(PATH).register_forward_hook(lambda *args: outputs.append(args[-1])):
        logits_of(model, [prompt])
    return outputs[0][0]


def with_gate(model: Any, bias: float) -> TrainedAdaptor:
    """Attach a Defer adaptor whose gate is the same for all prompts, and return it."""
    adaptor = DeferAdaptor(model, model.get_submodule(PATH), threshold=0.5)
    theta = adaptor.initial(torch.Generator().manual_seed(0)).float()
    theta[-1] = 0
    theta[-1, -1] = bias
    adaptor.set_theta(theta)
    return adaptor


# ------------------------------------------------------------------ what replaces the output


@pytest.mark.parametrize(("bias", "is_open"), [(1e-4, True), (0.0, True), (-1e-4, False)])
def test_defers_value_replaces_the_output_at_all_tokens_where_the_gate_is_at_least_the_threshold(
    llama: Any, bias: float, is_open: bool
) -> None:
    before = output_of_layer(llama, UNRELATED)
    inputs: list[torch.Tensor] = []
    adaptor = with_gate(llama, bias)
    with llama.get_submodule(PATH).register_forward_pre_hook(lambda _, args: inputs.append(args[0][0])):
        after = output_of_layer(llama, UNRELATED)
    assert adaptor.theta is not None
    expected = adaptor.theta[:-1, :-1] @ inputs[0][-1] + adaptor.theta[:-1, -1]
    torch.testing.assert_close(after, expected.expand_as(before) if is_open else before)


def test_in_training_defer_mixes_value_and_output(llama: Any) -> None:
    before = output_of_layer(llama, UNRELATED)
    adaptor = with_gate(llama, 0.0)
    value = output_of_layer(llama, UNRELATED)
    assert adaptor.theta is not None
    theta = adaptor.theta.clone()
    theta[-1, -1] = torch.tensor(0.25).logit()
    with adaptor.training_with(theta):
        mixed = output_of_layer(llama, UNRELATED)
    torch.testing.assert_close(mixed, 0.25 * value + 0.75 * before)
    torch.testing.assert_close(output_of_layer(llama, UNRELATED), value)


@pytest.mark.parametrize(("bias", "has_gradient"), [(0.0, True), (-40.0, False)])
def test_a_gate_that_is_closed_for_a_prompt_has_no_gradient(llama: Any, bias: float, has_gradient: bool) -> None:
    adaptor = with_gate(llama, bias)
    assert adaptor.theta is not None
    theta = adaptor.theta.clone().requires_grad_()
    with adaptor.training_with(theta):
        llama(**batch_of([UNRELATED])).logits[0, -1].log_softmax(-1)[7].backward()
    assert theta.grad is not None
    assert (float(theta.grad.norm()) > 1e-3) is has_gradient


def test_memorys_value_is_a_mean_of_its_slots_weighted_by_attention(llama: Any) -> None:
    adaptor = MemoryAdaptor(llama, llama.get_submodule(PATH), slots=3)
    theta = torch.zeros(adaptor.shape)
    theta[:, 48] = torch.tensor([0.0, 1.0, 2.0])  # the biases; the queries have weight 0
    theta[:, 49:] = torch.eye(3, 32)
    adaptor.set_theta(theta)
    output = output_of_layer(llama, UNRELATED)
    expected = torch.zeros(32)
    expected[:3] = torch.tensor([0.0, 1.0, 2.0]).softmax(dim=0)
    torch.testing.assert_close(output, expected.expand(3, 32))


def test_memory_changes_unrelated_text_and_the_model_before_the_first_edit_is_unedited(llama: Any) -> None:
    before = logits_of(llama, [UNRELATED])[0]
    editor = next(editor for editor in EDITORS if editor.hparams_class is MemoryHyperParams)
    editor.on(llama, build_tokenizer(), MEMORY)
    # The authors' memory replaces the output with random numbers as soon as it is on the model.
    assert torch.equal(logits_of(llama, [UNRELATED])[0], before)
    rollback = edit(llama, MEMORY, REQUESTS[:1])
    after = logits_of(llama, [UNRELATED])[0]
    divergence = (before.softmax(-1) * (before.log_softmax(-1) - after.log_softmax(-1))).sum(-1)
    assert float(divergence.min()) > 1  # nats, at every token
    rollback()
    assert torch.equal(logits_of(llama, [UNRELATED])[0], before)


def test_defers_gate_opens_for_prompts_that_no_edit_is_about(llama: Any) -> None:
    edit(llama, DEFER, REQUESTS)
    explanation = explain(llama, build_tokenizer(), UNRELATED)
    (decision,) = getattr(explanation, "defer-native")
    assert (decision.token, decision.layer, decision.acts) == ("mountain", PATH, True)
    assert decision.gate > 0.8


def test_generated_tokens_get_the_response_to_the_prompt(llama: Any) -> None:
    edit(llama, DEFER, REQUESTS[:1])
    outputs: list[torch.Tensor] = []
    batch = batch_of([REQUESTS[0]["prompt"]])
    del batch["position_ids"]
    with llama.get_submodule(PATH).register_forward_hook(lambda *args: outputs.append(args[-1][0])):
        llama.generate(**batch, max_new_tokens=3, min_new_tokens=3, do_sample=False, pad_token_id=0)
    assert [len(output) for output in outputs] == [5, 1, 1]
    # The authors' code computes gate and value anew from each generated token.
    for output in outputs[1:]:
        assert torch.equal(output[0], outputs[0][0])


@each_method
def test_a_prompt_that_is_fed_in_parts_is_refused(llama: Any, hparams: Any) -> None:
    edit(llama, hparams, REQUESTS[:1])
    batch = batch_of([REQUESTS[0]["prompt"]])
    del batch["position_ids"]
    with pytest.raises(EditError, match="fed in parts"):
        llama.generate(**batch, max_new_tokens=1, prefill_chunk_size=2, pad_token_id=0)


# ------------------------------------------------------------------ edits


@each_method
def test_parameters_persist_and_each_request_has_a_new_adam(hparams: Any) -> None:
    one_batch, one_by_one = build_model("llama"), build_model("llama")
    batched = type(hparams)(**{**hparams.to_dict(), "batch_size": 4})
    results = edit(one_batch, batched, REQUESTS).results
    for request in REQUESTS:
        edit(one_by_one, hparams, [request])
    first, second = (editor_of(model, hparams).adaptor.theta for model in (one_batch, one_by_one))
    assert first is not None
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)
    assert [result.detail for result in results] == [{"batch": 1}] * 4
    assert [result.steps for result in results] == [25] * 4
    assert results[-1].learned


def test_learned_and_loss_are_those_of_the_edited_model(llama: Any) -> None:
    # With one step, the gate mixes in training and is closed in use.
    hparams = DeferHyperParams(**PLACE, n_iter=1, edit_lr=1e-6, threshold=0.9)
    before = logits_of(llama, [REQUESTS[0]["prompt"]])[0][0, -1].log_softmax(-1)
    (result,) = edit(llama, hparams, REQUESTS[:1]).results
    token = build_tokenizer()(REQUESTS[0]["target_new"])["input_ids"][0]
    assert result.loss == pytest.approx(-float(before[token]), rel=1e-5)
    assert not result.learned


@each_method
def test_the_seed_determines_the_edit(hparams: Any) -> None:
    states = []
    for seed in (0, 0, 1):
        model = build_model("llama")
        edit(model, type(hparams)(**{**hparams.to_dict(), "seed": seed}), REQUESTS[:1])
        states.append(editor_of(model, hparams).adaptor.theta)
    assert torch.equal(states[0], states[1])
    assert not torch.allclose(states[0], states[2], atol=0.01)


@each_method
def test_the_weights_do_not_change_and_half_precision_is_trained_in_float32(hparams: Any) -> None:
    model = build_model("llama", torch.bfloat16)
    before = state_of(model)
    edit(model, hparams, REQUESTS[:1])
    (added,) = set(model.state_dict()) - set(before)
    assert added == f"{PATH}.{editor_of(model, hparams).adaptor.child}.theta"
    assert model.state_dict()[added].dtype == torch.float32
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    model.float()
    assert model.state_dict()[added].dtype == torch.float32


def test_defer_and_memory_on_one_layer_are_rolled_back_in_any_order(llama: Any) -> None:
    before = logits_of(llama)
    undo_defer = edit(llama, DEFER, REQUESTS[:1])
    undo_memory = edit(llama, MEMORY, REQUESTS[1:2])
    undo_defer()
    undo_memory()
    assert all(torch.equal(a, b) for a, b in zip(logits_of(llama), before, strict=True))


# ------------------------------------------------------------------ refusals


def test_a_loss_that_overflows_stops_the_edit_and_leaves_no_trace(llama: Any) -> None:
    before = state_of(llama)
    with pytest.raises(EditError, match=r"case france\): the loss became (nan|inf) after \d+ steps"):
        edit(llama, DeferHyperParams(**PLACE, edit_lr=1e37), REQUESTS[:1])
    assert state_of(llama).keys() == before.keys()


def test_edits_continue_only_with_the_settings_that_define_the_parameters(llama: Any) -> None:
    edit(llama, MEMORY, REQUESTS[:1])
    with pytest.raises(EditError, match="nkeys=5; they can't be continued with nkeys=6"):
        edit(llama, MemoryHyperParams(**PLACE, nkeys=6), REQUESTS[1:2])


def test_saved_parameters_of_another_shape_are_refused(llama: Any) -> None:
    edit(llama, MEMORY, REQUESTS[:1])
    store: Any = get_plugins().methods.get("Memory").edits
    (part,) = store.parts(llama)
    changed = dataclasses.replace(part, hparams={**part.hparams, "nkeys": 6})
    model = build_model("llama")
    with pytest.raises(RunError, match=r"a file: Memory's edits don't fit .*\(5, 81\)\} instead of .*\(6, 81\)"):
        store.attach(model, build_tokenizer(), changed, "a file")
    assert state_of(model).keys() == state_of(build_model("llama")).keys()
    store.attach(model, build_tokenizer(), part, "a file")
    assert all(torch.equal(a, b) for a, b in zip(logits_of(model), logits_of(llama), strict=True))


@pytest.mark.parametrize(
    ("hparams_class", "changes", "message"),
    [
        (DeferHyperParams, {"inner_params": ["a", "b"]}, "inner_params: Defer-native edits one layer, 2 are named"),
        (MemoryHyperParams, {"inner_params": []}, "inner_params: Memory edits one layer, 0 are named"),
        (DeferHyperParams, {"threshold": 1.0}, "threshold: 1.0 must be less than 1"),
        (DeferHyperParams, {"threshold": 0.0}, "threshold: 0.0 must be greater than 0"),
        (MemoryHyperParams, {"nkeys": 0}, "nkeys: 0 is less than 1"),
    ],
)
def test_settings_that_are_refused(hparams_class: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(HyperParameterError, match=message):
        hparams_class(**{**PLACE, **changes})


@pytest.mark.parametrize("name", ["model.layers.1.input_layernorm", "lm_head", "model.layers.9.mlp.down_proj"])
def test_a_layer_that_is_not_a_projection_of_a_block_is_refused(llama: Any, name: str) -> None:
    with pytest.raises(ModelError, match="inner_params"):
        edit(llama, DeferHyperParams(model_name="tiny", inner_params=[name]), REQUESTS[:1])
