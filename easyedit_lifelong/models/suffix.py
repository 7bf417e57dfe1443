"""Run only the upper part of a model, on the right part of its input.

What an edit changes lies above one block and to the right of one token; everything else is constant
while the edit is worked out. The tools here let a model's own forward pass skip the rest: lower
blocks stand in for themselves (they return what they returned before), the tokens to the left are
read from a frozen cache, and the output head is asked only where there is a target. Masks, rotary
angles and norms stay the model's own, whatever its family.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache


class FrozenPrefix(DynamicCache):
    """A cache of the tokens to the left that passes read but don't grow.

    Args:
        collected: the cache of a whole pass.
        length: how many of its tokens to keep.
    """

    def __init__(self, collected: DynamicCache, length: int) -> None:
        super().__init__()
        self.layers = collected.layers
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[..., :length, :], layer.values[..., :length, :]

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        """Return a layer's cached keys and values with the pass's own behind them."""
        layer = self.layers[layer_idx]
        return (
            torch.cat([layer.keys, key_states], dim=-2),
            torch.cat([layer.values, value_states], dim=-2),
        )

    def taking(self, rows: Tensor) -> FrozenPrefix:
        """Return the cache of some of its rows."""
        some = copy.copy(self)
        some.layers = [copy.copy(layer) for layer in self.layers]
        some.keep_rows(rows)
        return some

    def keep_rows(self, rows: Tensor) -> None:
        """Forget all but the given rows."""
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]


class PassEnded(Exception):
    """Raised inside a forward pass to end it early; see :func:`ending_after`."""


@contextlib.contextmanager
def standing_in(blocks: Sequence[nn.Module], output: Any) -> Iterator[None]:
    """Let blocks return ``output`` without computing, in the passes inside."""

    def stand_in(*_: Any, **__: Any) -> Any:
        return output

    # A block may carry a forward of its own already: accelerate's, which moves it between devices.
    before = [block.__dict__.get("forward") for block in blocks]
    for block in blocks:
        block.__dict__["forward"] = stand_in
    try:
        yield
    finally:
        for block, forward in zip(blocks, before, strict=True):
            if forward is None:
                del block.__dict__["forward"]
            else:
                block.__dict__["forward"] = forward


@contextlib.contextmanager
def recording_output(module: nn.Module | None, keep: Callable[[Any], None]) -> Iterator[None]:
    """Hand what a module returns to ``keep`` in the passes inside; with no module, do nothing."""
    if module is None:
        yield
        return

    def record(_: nn.Module, __: Any, output: Any) -> None:
        keep(output)

    handle = module.register_forward_hook(record)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def replacing_output(module: nn.Module, hidden: Tensor, column: int) -> Iterator[None]:
    """Put other hidden states into what a module returns, at a column and behind, in the passes inside."""

    def replace(_: nn.Module, __: Any, output: Any) -> Any:
        own = hidden_of(output)
        return with_hidden(output, torch.cat([own[:, :column], hidden, own[:, column + hidden.shape[1] :]], dim=1))

    handle = module.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def ending_after(module: nn.Module) -> Iterator[None]:
    """End the pass inside as soon as a module has returned; what the pass returns is lost."""

    def end(*_: Any) -> None:
        raise PassEnded

    handle = module.register_forward_hook(end)
    try:
        with contextlib.suppress(PassEnded):
            yield
    finally:
        handle.remove()


@contextlib.contextmanager
def head_at(head: nn.Module, rows: Tensor, columns: Tensor, *, in_place: bool = False) -> Iterator[None]:
    """Have the output head compute at some positions only, in the passes inside.

    The model then returns logits of shape ``(1, positions, vocabulary)``; what it does to logits
    element by element (capping, scaling) it does to these.

    Args:
        head: the output head.
        rows: of the positions.
        columns: of the positions.
        in_place: return logits of the whole batch instead, 0 at all other positions, for those who look at what the
            model returns.
    """
    own, before = head.forward, head.__dict__.get("forward")

    def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        at = rows.to(hidden.device), columns.to(hidden.device)
        logits = own(hidden[at].unsqueeze(0), *args, **kwargs)
        if not in_place:
            return logits
        whole = logits.new_zeros(*hidden.shape[:-1], logits.shape[-1])
        whole[at] = logits[0]
        return whole

    head.__dict__["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del head.__dict__["forward"]
        else:
            head.__dict__["forward"] = before


def hidden_of(output: Any) -> Tensor:
    """Return the hidden states in what a block returns: a tensor, or a tuple that begins with it."""
    return output if isinstance(output, Tensor) else output[0]


def with_hidden(output: Any, hidden: Tensor) -> Any:
    """Return a block's output with other hidden states in it."""
    return hidden if isinstance(output, Tensor) else (hidden, *output[1:])


def same_logits(part: Tensor, whole: Tensor, dtype: torch.dtype) -> bool:
    """Whether running a part of a model gave what running all of it does.

    Args:
        part: logits of the part.
        whole: logits of the whole, same shape.
        dtype: what the model computes in: half precision rounds differently when fewer tokens go together.
    """
    tolerance = 1e-3 if dtype in (torch.float32, torch.float64) else 5e-2
    return bool((part - whole).abs().max() <= tolerance * whole.abs().max().clamp(min=1.0))
