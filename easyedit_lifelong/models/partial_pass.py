"""Run partial passes: only the blocks above a layer, on the tokens from a position on.

An edit changes only the activations above one block and from one token on. All others stay constant while the edit's
value is trained. The functions here let the model's own forward pass skip the constant part: lower blocks return their
earlier output, earlier tokens are read from a frozen cache, and the output head computes only the positions that have a
target. The model still computes masks, rotary angles and norms itself, so this works for every model family.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from easyedit_lifelong.models.overrides import overridden, without_own_hooks
from easyedit_lifelong.models.row_axis import with_row_axis, without_row_axis


class FrozenPrefix(DynamicCache):
    """A key-value cache of the first tokens, which forward passes read but don't extend.

    Args:
        collected: the cache of a full pass. It must not be used afterwards, since its tensors are cut.
        length: number of tokens to keep.
    """

    def __init__(self, collected: DynamicCache, length: int) -> None:
        super().__init__()
        self.layers = collected.layers
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[..., :length, :], layer.values[..., :length, :]

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        """Return a layer's cached keys and values, followed by those of the running pass."""
        layer = self.layers[layer_idx]
        return torch.cat([layer.keys, key_states], dim=-2), torch.cat([layer.values, value_states], dim=-2)

    def first_tokens(self, length: int) -> FrozenPrefix:
        """Return a cache of the first ``length`` tokens of this one. It shares the memory of this cache."""
        shorter = copy.copy(self)
        shorter.layers = [copy.copy(layer) for layer in self.layers]
        for layer in shorter.layers:
            layer.keys, layer.values = layer.keys[..., :length, :], layer.values[..., :length, :]
        return shorter

    def select_rows(self, rows: Tensor) -> FrozenPrefix:
        """Return a cache that holds the given rows of this one; ``rows`` are indices or a mask."""
        selected = copy.copy(self)
        selected.layers = [copy.copy(layer) for layer in self.layers]
        selected.keep_rows(rows)
        return selected

    def keep_rows(self, rows: Tensor | slice) -> None:
        """Drop all rows but the given ones: indices, a mask, or a range."""
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]


class RepeatedPrefix(FrozenPrefix):
    """A cache of the first tokens for a pass that repeats the cached rows as often as its number of rows requires.

    Args:
        prefix: the cache; its memory is shared.
        length: number of tokens to keep.
    """

    def __init__(self, prefix: FrozenPrefix, length: int) -> None:
        DynamicCache.__init__(self)
        self.layers = prefix.first_tokens(length).layers

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        """Return a layer's cached keys and values, repeated, followed by those of the running pass."""
        layer = self.layers[layer_idx]
        times = len(key_states) // len(layer.keys)
        keys, values = layer.keys.repeat(times, 1, 1, 1), layer.values.repeat(times, 1, 1, 1)
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


def fixed_output(blocks: Sequence[nn.Module], output: Any) -> contextlib.AbstractContextManager[None]:
    """Return a context in which blocks return ``output`` instead of computing."""

    def stand_in(*_: Any, **__: Any) -> Any:
        return output

    return overridden("forward", dict.fromkeys(blocks, stand_in))


@contextlib.contextmanager
def standing_in(module: nn.Module, hidden: Tensor) -> Iterator[None]:
    """Return hidden states in place of a module's output in this context. Neither the module nor its hooks run.

    Args:
        module: returns hidden states of shape ``(rows, tokens, width)`` or ``(rows * tokens, width)``.
        hidden: its output at every token, shape ``(rows, tokens, width)``.
    """

    def stand_in(inputs: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden if inputs.dim() == hidden.dim() else without_row_axis(hidden)

    with without_own_hooks(module), overridden("forward", {module: stand_in}):
        yield


def replacing_output(module: nn.Module, hidden: Tensor, column: int) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which some columns of a module's output are replaced.

    Args:
        module: returns hidden states of shape ``(rows, tokens, width)`` or ``(rows * tokens, width)``.
        hidden: the replacement, shape ``(rows, columns, width)``.
        column: first column to replace.
    """

    def replace(_: nn.Module, __: Any, output: Any) -> Any:
        original = hidden_of(output)
        by_row = with_row_axis(original, len(hidden))
        after = by_row[:, column + hidden.shape[1] :]
        replaced = torch.cat([by_row[:, :column], hidden, after], dim=1)
        return with_hidden(output, replaced if original.dim() == 3 else without_row_axis(replaced))

    return module.register_forward_hook(replace)


def replacing_positions(
    module: nn.Module, rows: Tensor, columns: Tensor, hidden: Tensor, n_columns: int
) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which a module's output is replaced at some positions.

    Args:
        module: returns hidden states of shape ``(rows, tokens, width)`` or ``(rows * tokens, width)``.
        rows: row of each position, shape ``(positions,)``.
        columns: column of each position, shape ``(positions,)``.
        hidden: the replacement, shape ``(positions, width)``.
        n_columns: number of tokens of a row.
    """

    def replace(_: nn.Module, __: Any, output: Any) -> Any:
        original = hidden_of(output)
        positions = rows.to(original.device), columns.to(original.device)
        by_row = original.view(-1, n_columns, original.shape[-1])
        return with_hidden(output, by_row.index_put(positions, hidden.to(original)).view_as(original))

    return module.register_forward_hook(replace)


def adding_rows(block: nn.Module, hidden: Tensor, n_before: int, n_all: int) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which rows are added to the hidden states that a block receives.

    The model prepares masks and position embeddings for all rows of the pass. The block gets those of the rows that
    have been added so far, which are the first ones.

    Args:
        block: receives hidden states of shape ``(rows, tokens, width)`` as its first argument.
        hidden: the added rows, shape ``(added rows, tokens, width)``.
        n_before: number of rows that the block receives without them.
        n_all: number of all rows of the pass.
    """
    n_rows = n_before + len(hidden)

    def of_rows(value: Any) -> Any:
        if isinstance(value, Tensor) and value.dim() > 1 and n_rows < n_all and len(value) % n_all == 0:
            return value[: len(value) // n_all * n_rows]  # some biases have an entry for each row and head
        return tuple(of_rows(part) for part in value) if isinstance(value, tuple) else value

    def add(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        kwargs = {name: of_rows(value) for name, value in kwargs.items()}
        before = args[0] if args else kwargs["hidden_states"]
        after = torch.cat([before[:n_before], hidden.to(before)]) if len(hidden) else before
        if args:
            return (after, *(of_rows(value) for value in args[1:])), kwargs
        return args, {**kwargs, "hidden_states": after}

    return block.register_forward_pre_hook(add, with_kwargs=True)


def head_at_positions(
    head: nn.Module, rows: Tensor, columns: Tensor, *, in_place: bool = False
) -> contextlib.AbstractContextManager[None]:
    """Return a context in which the output head computes logits only at the given positions.

    The model then returns logits of shape ``(1, positions, vocabulary)``. It applies elementwise operations on logits
    (capping, scaling) to these.

    Args:
        head: the output head.
        rows: row of each position, shape ``(positions,)``.
        columns: column of each position, shape ``(positions,)``.
        in_place: return logits of shape ``(rows, tokens, vocabulary)`` instead, with 0 at all other positions, for
            hooks that inspect the model's output.
    """
    original = head.forward

    def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        positions = rows.to(hidden.device), columns.to(hidden.device)
        logits = original(hidden[positions].unsqueeze(0), *args, **kwargs)
        if not in_place:
            return logits
        full = logits.new_zeros(*hidden.shape[:-1], logits.shape[-1])
        full[positions] = logits[0]
        return full

    return overridden("forward", {head: forward})


def hidden_of(output: Any) -> Tensor:
    """Return the hidden states in a block's output: the output itself, or the first entry of a tuple."""
    return output if isinstance(output, Tensor) else output[0]


def with_hidden(output: Any, hidden: Tensor) -> Any:
    """Return a block's output with its hidden states replaced."""
    return hidden if isinstance(output, Tensor) else (hidden, *output[1:])


def same_logits(part: Tensor, full: Tensor, dtype: torch.dtype) -> bool:
    """Whether a partial pass gave the same logits as the full pass, up to rounding.

    Args:
        part: logits of the partial pass.
        full: logits of the full pass, same shape.
        dtype: the model's dtype. Half precision has a larger tolerance: it rounds differently for fewer tokens.
    """
    tolerance = 1e-3 if dtype in (torch.float32, torch.float64) else 5e-2
    return bool((part - full).abs().max() <= tolerance * full.abs().max().clamp(min=1.0))
