"""Running the upper part of a model: the tools leave no trace, whatever happens inside."""

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


def traces(model: nn.Module) -> Any:
    return {
        name: (set(m.__dict__), len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()
    }


def blocks_of(model: Any) -> nn.ModuleList:
    return model.transformer.h if hasattr(model, "transformer") else model.model.layers


@torch.no_grad()
def test_a_pass_of_the_upper_blocks_gives_the_logits_of_the_full_pass(family: str) -> None:
    model = build_model(family)
    before, blocks = traces(model), blocks_of(model)
    kept: list[Any] = []
    collected = DynamicCache()
    with recording_output(blocks[1], kept.append):
        whole = model(IDS, past_key_values=collected, use_cache=True).logits
    start = 3
    boundary = with_hidden(kept[0], hidden_of(kept[0])[:, start:])
    prefix = FrozenPrefix(collected, start)
    for _ in range(2):  # the prefix doesn't grow
        with fixed_output(list(blocks[:2]), boundary):
            part = model(IDS[:, start:], past_key_values=prefix, use_cache=True).logits
        torch.testing.assert_close(part, whole[:, start:], rtol=1e-4, atol=1e-3)
    prefix.keep_rows(torch.tensor([False, True]))
    one = with_hidden(boundary, hidden_of(boundary)[1:])
    with fixed_output(list(blocks[:2]), one):
        part = model(IDS[1:, start:], past_key_values=prefix, use_cache=True).logits
    torch.testing.assert_close(part, whole[1:, start:], rtol=1e-4, atol=1e-3)
    assert traces(model) == before


@torch.no_grad()
def test_the_head_can_be_computed_at_selected_positions_only(family: str) -> None:
    model = build_model(family)
    before, whole = traces(model), model(IDS).logits
    rows, columns = torch.tensor([1, 0, 1]), torch.tensor([5, 2, 0])
    with head_at_positions(model.get_output_embeddings(), rows, columns):
        some = model(IDS).logits
    assert some.shape == (1, 3, whole.shape[-1])
    torch.testing.assert_close(some[0], whole[rows, columns], rtol=1e-5, atol=1e-4)
    assert traces(model) == before


@pytest.mark.parametrize("column", [0, 2, 4])
@torch.no_grad()
def test_a_replaced_block_output_changes_later_columns_only(family: str, column: int) -> None:
    model = build_model(family)
    before, block = traces(model), blocks_of(model)[1]
    kept: list[Any] = []
    with recording_output(block, kept.append):
        whole = model(IDS).logits
    own = hidden_of(kept[0])
    with replacing_output(block, own[:, column : column + 2], column):
        assert torch.equal(model(IDS).logits, whole)
    other = torch.randn(2, 2, own.shape[-1], generator=torch.Generator().manual_seed(0))
    with replacing_output(block, other, column), recording_output(block, kept.append):
        changed = model(IDS).logits
    now = hidden_of(kept[-1])
    assert torch.equal(now[:, column : column + 2], other)
    assert torch.equal(now[:, :column], own[:, :column])
    assert torch.equal(now[:, column + 2 :], own[:, column + 2 :])
    assert torch.equal(changed[:, :column], whole[:, :column])
    assert not torch.equal(changed[:, column:], whole[:, column:])
    assert traces(model) == before


@torch.no_grad()
def test_a_pass_ends_after_the_given_block() -> None:
    model = build_model("llama")
    before, seen = traces(model), []
    blocks = blocks_of(model)
    handle = blocks[2].register_forward_pre_hook(lambda *_: seen.append(2))
    reached = False
    with ending_after(blocks[1]):
        model(IDS)
        reached = True
    handle.remove()
    assert not seen
    assert not reached
    assert traces(model) == before
    with ending_after(blocks[1]):
        pass  # a pass that never comes to it is no error
    with pytest.raises(ZeroDivisionError), ending_after(blocks[1]):
        raise ZeroDivisionError


def test_an_exception_inside_a_context_leaves_no_trace() -> None:
    model = build_model("llama")
    before, blocks = traces(model), blocks_of(model)
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
        assert traces(model) == before


def test_a_custom_forward_of_a_block_is_restored() -> None:
    # accelerate's, for one, which moves it between devices.
    model = build_model("llama")
    block = blocks_of(model)[0]

    def own(*args: Any, **kwargs: Any) -> Any:
        return type(block).forward(block, *args, **kwargs)

    block.__dict__["forward"] = model.lm_head.__dict__["forward"] = own
    with fixed_output([block], torch.zeros(1)), head_at_positions(model.lm_head, torch.tensor([0]), torch.tensor([0])):
        assert block.__dict__["forward"] is not own
    assert block.__dict__["forward"] is own
    assert model.lm_head.__dict__["forward"] is own


def test_hidden_states_are_read_from_and_put_into_block_outputs() -> None:
    hidden, other = torch.zeros(1, 2, 3), torch.ones(1, 2, 3)
    assert hidden_of(hidden) is hidden
    assert hidden_of((hidden, "cache")) is hidden
    assert with_hidden(hidden, other) is other
    assert with_hidden((hidden, "cache"), other) == (other, "cache")


def test_recording_no_module_does_nothing() -> None:
    with recording_output(None, print):
        pass
