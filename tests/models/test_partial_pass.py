"""Partial passes give the results of full passes, and their contexts leave no trace on the model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import DynamicCache

from easyedit_lifelong.models.capture import ending_after, recording_output
from easyedit_lifelong.models.partial_pass import (
    FrozenPrefix,
    fixed_output,
    head_at_positions,
    hidden_of,
    replacing_output,
    with_hidden,
)
from tests.support.tiny_models import build_model

IDS = torch.tensor([[4, 5, 6, 7, 8, 9], [10, 11, 12, 13, 14, 15]])


def attributes_and_hooks(model: nn.Module) -> Any:
    """Return the attribute names and the number of hooks of each module."""
    return {
        name: (set(m.__dict__), len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()
    }


def blocks_of(model: Any) -> nn.ModuleList:
    return model.transformer.h if hasattr(model, "transformer") else model.model.layers


@torch.no_grad()
def test_a_pass_of_the_upper_blocks_gives_the_logits_of_the_full_pass(family: str) -> None:
    model = build_model(family)
    before, blocks = attributes_and_hooks(model), blocks_of(model)
    outputs: list[Any] = []
    cache = DynamicCache()
    with recording_output(blocks[1], outputs.append):
        full = model(IDS, past_key_values=cache, use_cache=True).logits
    start = 3
    boundary = with_hidden(outputs[0], hidden_of(outputs[0])[:, start:])
    prefix = FrozenPrefix(cache, start)
    for _ in range(2):  # the prefix doesn't grow
        with fixed_output(list(blocks[:2]), boundary):
            part = model(IDS[:, start:], past_key_values=prefix, use_cache=True).logits
        torch.testing.assert_close(part, full[:, start:], rtol=1e-4, atol=1e-3)
    prefix.keep_rows(torch.tensor([False, True]))
    second_row = with_hidden(boundary, hidden_of(boundary)[1:])
    with fixed_output(list(blocks[:2]), second_row):
        part = model(IDS[1:, start:], past_key_values=prefix, use_cache=True).logits
    torch.testing.assert_close(part, full[1:, start:], rtol=1e-4, atol=1e-3)
    assert attributes_and_hooks(model) == before


@torch.no_grad()
def test_the_head_can_be_computed_at_selected_positions_only(family: str) -> None:
    model = build_model(family)
    before, full = attributes_and_hooks(model), model(IDS).logits
    rows, columns = torch.tensor([1, 0, 1]), torch.tensor([5, 2, 0])
    with head_at_positions(model.get_output_embeddings(), rows, columns):
        selected = model(IDS).logits
    assert selected.shape == (1, 3, full.shape[-1])
    torch.testing.assert_close(selected[0], full[rows, columns], rtol=1e-5, atol=1e-4)
    assert attributes_and_hooks(model) == before


@pytest.mark.parametrize("column", [0, 2, 4])
@torch.no_grad()
def test_a_replaced_block_output_changes_later_columns_only(family: str, column: int) -> None:
    model = build_model(family)
    before, block = attributes_and_hooks(model), blocks_of(model)[1]
    outputs: list[Any] = []
    with recording_output(block, outputs.append):
        full = model(IDS).logits
    hidden = hidden_of(outputs[0])
    with replacing_output(block, hidden[:, column : column + 2], column):
        assert torch.equal(model(IDS).logits, full)
    replacement = torch.randn(2, 2, hidden.shape[-1], generator=torch.Generator().manual_seed(0))
    with replacing_output(block, replacement, column), recording_output(block, outputs.append):
        changed = model(IDS).logits
    changed_hidden = hidden_of(outputs[-1])
    assert torch.equal(changed_hidden[:, column : column + 2], replacement)
    assert torch.equal(changed_hidden[:, :column], hidden[:, :column])
    assert torch.equal(changed_hidden[:, column + 2 :], hidden[:, column + 2 :])
    assert torch.equal(changed[:, :column], full[:, :column])
    assert not torch.equal(changed[:, column:], full[:, column:])
    assert attributes_and_hooks(model) == before


@torch.no_grad()
def test_a_pass_ends_after_the_given_block() -> None:
    model = build_model("llama")
    before, later_blocks = attributes_and_hooks(model), []
    blocks = blocks_of(model)
    handle = blocks[2].register_forward_pre_hook(lambda *_: later_blocks.append(2))
    reached = False
    with ending_after(blocks[1]):
        model(IDS)
        reached = True
    handle.remove()
    assert not later_blocks
    assert not reached
    assert attributes_and_hooks(model) == before
    with ending_after(blocks[1]):
        pass  # a context in which the block never runs is no error
    with pytest.raises(ZeroDivisionError), ending_after(blocks[1]):
        raise ZeroDivisionError


def test_an_exception_inside_a_context_leaves_no_trace() -> None:
    model = build_model("llama")
    before, blocks = attributes_and_hooks(model), blocks_of(model)
    contexts = [
        lambda: fixed_output(list(blocks[:2]), torch.zeros(1)),
        lambda: recording_output(blocks[0], print),
        lambda: replacing_output(blocks[0], torch.zeros(2, 1, 32), 0),
        lambda: ending_after(blocks[0]),
        lambda: head_at_positions(model.lm_head, torch.tensor([0]), torch.tensor([0])),
    ]
    for context in contexts:
        with pytest.raises(KeyboardInterrupt), context():
            raise KeyboardInterrupt
        assert attributes_and_hooks(model) == before


def test_a_custom_forward_of_a_block_is_restored() -> None:
    # accelerate sets one that moves the module between devices.
    model = build_model("llama")
    block = blocks_of(model)[0]

    def custom_forward(*args: Any, **kwargs: Any) -> Any:
        return type(block).forward(block, *args, **kwargs)

    block.__dict__["forward"] = model.lm_head.__dict__["forward"] = custom_forward
    with fixed_output([block], torch.zeros(1)), head_at_positions(model.lm_head, torch.tensor([0]), torch.tensor([0])):
        assert block.__dict__["forward"] is not custom_forward
    assert block.__dict__["forward"] is custom_forward
    assert model.lm_head.__dict__["forward"] is custom_forward


def test_hidden_states_are_read_from_and_put_into_block_outputs() -> None:
    hidden, replacement = torch.zeros(1, 2, 3), torch.ones(1, 2, 3)
    assert hidden_of(hidden) is hidden
    assert hidden_of((hidden, "cache")) is hidden
    assert with_hidden(hidden, replacement) is replacement
    assert with_hidden((hidden, "cache"), replacement) == (replacement, "cache")


def test_recording_no_module_does_nothing() -> None:
    with recording_output(None, print):
        pass
