"""Rollback, copies and failed edits: what is undone, what stays, and what the user had put on the model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module

from easyedit_lifelong import GraceHyperParams, apply_grace_to_model
from easyedit_lifelong.data.request import as_requests
from easyedit_lifelong.errors import DataError, EditError, ModelError
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.methods.grace.editor import GraceEditor
from tests.support.prompt_edits import EDITS, PROMPTS, TARGETS, hparams_for
from tests.support.tiny_models import build_model, build_tokenizer, state_of


def test_rollback_restores_logits_state_and_attributes_of_the_model(family: str) -> None:
    model, tokenizer = build_model(family), build_tokenizer()
    ids = tokenizer(PROMPTS, return_tensors="pt", padding=True)
    state, logits, attributes = state_of(model), model(**ids).logits, set(model.__dict__)
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    _, rollback = apply_grace_to_model(model, tokenizer, EDITS, hparams_for(family))
    assert set(model.state_dict()) - set(state)  # the codebook is part of the model's state
    rollback()
    rollback()  # idempotent
    after = model.state_dict()
    assert set(after) == set(state)
    assert all(torch.equal(after[name], tensor) for name, tensor in state.items())
    assert torch.equal(model(**ids).logits, logits)
    assert set(model.__dict__) == attributes
    assert [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()] == hooks
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("earlier_first", [False, True])
def test_two_calls_share_a_codebook_and_roll_back_in_any_order(earlier_first: bool) -> None:
    model, tokenizer, hparams = build_model("llama"), build_tokenizer(), hparams_for("llama")
    state = state_of(model)
    _, first = apply_grace_to_model(model, tokenizer, EDITS[:2], hparams)
    state_after_first = state_of(model)
    _, second = apply_grace_to_model(model, tokenizer, EDITS[2:], hparams)
    assert second.results[-1].detail["n_keys"] == 4
    unedited = Scorer(tokenizer).generate(build_model("llama"), PROMPTS, 1)
    if earlier_first:
        first()
        outputs = Scorer(tokenizer).generate(model, PROMPTS, 1)
        assert outputs == unedited[:2] + TARGETS[2:]
        second()
    else:
        second()
        assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state_after_first.items())
        first()
    assert set(model.state_dict()) == set(state)
    first()
    second()


def test_a_copied_model_is_edited_without_effect_on_the_original() -> None:
    model, tokenizer, hparams = build_model("llama"), build_tokenizer(), hparams_for("llama")
    edited, _ = apply_grace_to_model(model, tokenizer, EDITS[:1], hparams, copy=True)
    second_copy = copy.deepcopy(edited)
    apply_grace_to_model(second_copy, tokenizer, EDITS[1:2], hparams)
    scorer, prompts = Scorer(tokenizer), PROMPTS[:2]
    assert scorer.generate(edited, prompts, 1)[0] == "Rome"
    assert scorer.generate(edited, prompts, 1)[1] == scorer.generate(model, prompts, 1)[1]
    assert scorer.generate(second_copy, prompts, 1) == ["Rome", "Peru"]
    assert set(model.state_dict()) == set(build_model("llama").state_dict())


@pytest.mark.parametrize("keep_original_weight", [True, False])
def test_iterating_over_a_rollback_undoes_only_with_keep_original_weight(keep_original_weight: bool) -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    names_before = set(model.state_dict())
    _, rollback = apply_grace_to_model(
        model, tokenizer, EDITS, hparams_for("llama"), keep_original_weight=keep_original_weight
    )
    assert list(rollback.items()) == []
    assert (set(model.state_dict()) == names_before) is keep_original_weight


def test_a_failed_edit_leaves_no_trace_of_its_batch() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    names, attributes = set(model.state_dict()), set(model.__dict__)
    with torch.no_grad():  # the second prompt's first word breaks the model
        model.get_input_embeddings().weight[tokenizer("Hamlet")["input_ids"][0]] = float("nan")
    with pytest.raises(EditError, match=r"request 1 .*activations .* are NaN"):
        apply_grace_to_model(model, tokenizer, EDITS[:2], hparams_for("llama"))
    assert set(model.state_dict()) == names
    assert set(model.__dict__) == attributes


def test_a_nan_loss_is_an_error_and_earlier_edits_stay() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    apply_grace_to_model(model, tokenizer, EDITS[:1], hparams_for("llama"))
    state = state_of(model)
    with pytest.raises(EditError, match=r"the loss became .* lower edit_lr"):
        apply_grace_to_model(model, tokenizer, EDITS[1:2], hparams_for("llama", edit_lr=1e37, reg=None))
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())
    assert Scorer(tokenizer).generate(model, [PROMPTS[0]], 1) == ["Rome"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"inner_params": ["model.layers[99].mlp.down_proj"]}, "0 to 3"),
        ({"inner_params": ["model.layer[2].mlp"]}, "model.layers"),
    ],
)
def test_a_layer_that_does_not_exist_is_refused_with_those_that_do(options: dict[str, Any], problem: str) -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    with pytest.raises(ModelError, match=problem):
        apply_grace_to_model(model, tokenizer, EDITS, GraceHyperParams(model_name="tiny", **options))
    assert "generate" not in model.__dict__


def test_a_prompt_longer_than_the_context_is_refused_before_any_edit() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    names = set(model.__dict__)
    with pytest.raises(DataError, match=r"request 1 .*'prompt'.*context is 64"):
        apply_grace_to_model(
            model, tokenizer, [EDITS[0], {"prompt": "the " * 70, "target_new": "Rome"}], hparams_for("llama")
        )
    assert set(model.__dict__) == names


def test_other_settings_on_the_same_layer_are_refused() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    apply_grace_to_model(model, tokenizer, EDITS[:1], hparams_for("llama"))
    with pytest.raises(EditError, match=r"eps=0\.5"):
        apply_grace_to_model(model, tokenizer, EDITS[1:], hparams_for("llama", eps=2.0))


@pytest.mark.parametrize("undone", ["copy", "original"])
def test_a_copied_rollback_undoes_the_edits_of_the_copied_model_only(family: str, undone: str) -> None:
    model, tokenizer = build_model(family), build_tokenizer()
    ids = tokenizer(PROMPTS, return_tensors="pt", padding=True)
    state, logits, attributes = state_of(model), model(**ids).logits, set(model.__dict__)
    _, rollback = apply_grace_to_model(model, tokenizer, EDITS, hparams_for(family))
    edited_logits = model(**ids).logits
    copied_model, copied_rollback = copy.deepcopy((model, rollback))
    restored, kept_model = (copied_model, model) if undone == "copy" else (model, copied_model)
    undo, undo_kept_model = (copied_rollback, rollback) if undone == "copy" else (rollback, copied_rollback)

    undo()
    assert (undo.done, undo_kept_model.done) == (True, False)
    assert set(restored.__dict__) == attributes
    assert restored.state_dict().keys() == state.keys()
    assert all(torch.equal(restored.state_dict()[name], tensor) for name, tensor in state.items())
    assert torch.equal(restored(**ids).logits, logits)
    assert torch.equal(kept_model(**ids).logits, edited_logits)
    assert Scorer(tokenizer).generate(kept_model, PROMPTS, 1) == TARGETS

    undo_kept_model()
    assert set(kept_model.__dict__) == attributes
    assert torch.equal(kept_model(**ids).logits, logits)


def test_an_empty_request_list_is_an_error_and_leaves_the_model_unchanged(family: str) -> None:
    model, tokenizer = build_model(family), build_tokenizer()
    state = state_of(model)
    attributes_before = [(module, dict(module.__dict__)) for module in model.modules()]
    hooks_before = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    with pytest.raises(DataError, match="no requests"):
        apply_grace_to_model(model, tokenizer, [], hparams_for(family))
    assert all(module.__dict__ == attributes for module, attributes in attributes_before)
    assert [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()] == hooks_before
    assert model.state_dict().keys() == state.keys()


def test_an_empty_second_request_list_leaves_earlier_edits_unchanged() -> None:
    model, tokenizer, hparams = build_model("llama"), build_tokenizer(), hparams_for("llama")
    _, rollback = apply_grace_to_model(model, tokenizer, EDITS[:1], hparams)
    with pytest.raises(DataError, match="no requests"):
        apply_grace_to_model(model, tokenizer, [], hparams)
    assert Scorer(tokenizer).generate(model, [PROMPTS[0]], 1) == ["Rome"]
    rollback()
    assert model.state_dict().keys() == build_model("llama").state_dict().keys()


def test_a_users_generate_function_is_called_and_restored_by_rollback() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    calls: list[int] = []

    def generate(*args: Any, **kwargs: Any) -> Any:
        calls.append(len(kwargs["input_ids"]))
        return type(model).generate(model, *args, **kwargs)

    model.generate = generate
    _, rollback = apply_grace_to_model(model, tokenizer, EDITS[:2], hparams_for("llama"))
    assert Scorer(tokenizer).generate(model, PROMPTS[:2], 1) == ["Rome", "Peru"]
    assert calls == [2]
    rollback()
    assert model.__dict__["generate"] is generate
    model.generate(**tokenizer(PROMPTS[0], return_tensors="pt"), max_new_tokens=1)
    assert calls == [2, 1]


def test_hooks_of_accelerate_stay_during_edits_and_after_rollback() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    blocks = list(model.model.layers)
    for block in blocks:
        add_hook_to_module(block, ModelHook())
    before = [(block._hf_hook, block.__dict__["forward"]) for block in blocks]
    ids = tokenizer(PROMPTS[0], return_tensors="pt")
    logits = model(**ids).logits

    def hooks_unchanged() -> bool:
        return all(
            block._hf_hook is hook and block.__dict__["forward"] is forward
            for block, (hook, forward) in zip(blocks, before, strict=True)
        )

    _, rollback = apply_grace_to_model(model, tokenizer, EDITS, hparams_for("llama"))
    assert [result.learned for result in rollback.results] == [True] * len(EDITS)
    assert GraceEditor.on(model, tokenizer, hparams_for("llama")).replay_support[0], "training used full passes"
    assert hooks_unchanged()
    rollback()
    assert hooks_unchanged()
    assert torch.equal(model(**ids).logits, logits)


def test_an_editor_whose_edits_were_rolled_back_refuses_further_ones() -> None:
    model, tokenizer, hparams = build_model("llama"), build_tokenizer(), hparams_for("llama")
    attributes, requests = set(model.__dict__), as_requests(EDITS[:1])
    editor = GraceEditor.on(model, tokenizer, hparams)
    _, undo = editor.edit(requests)
    undo()
    with pytest.raises(EditError, match="rolled back"):
        editor.edit(requests)
    assert set(model.__dict__) == attributes
    apply_grace_to_model(model, tokenizer, requests, hparams)  # creates a new editor
    assert GraceEditor.on(model, tokenizer, hparams) is not editor
    with pytest.raises(EditError, match="rolled back"):
        editor.edit(requests)
    assert Scorer(tokenizer).generate(model, [PROMPTS[0]], 1) == ["Rome"]
