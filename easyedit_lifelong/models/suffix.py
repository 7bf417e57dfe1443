"""Run only the upper part of a model, on the right part of its input.

What an edit changes lies above one block and to the right of one token. Everything else stays constant while the
edit's value is trained. The tools here let a model's own forward pass skip the rest: lower blocks return what they
returned before, the tokens to the left are read from a frozen cache, and the output head computes only the positions
that have a target. Masks, rotary angles and norms stay the model's own, whatever its family.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from easyedit_lifelong.models.overrides import overridden


class FrozenPrefix(DynamicCache):
    """A cache of the tokens to the left that passes read but don't grow.

    Args:
        collected: the cache of a full pass.
        length: how many of its tokens to keep.
    """

    def __init__(self, collected: DynamicCache, length: int) -> None:
        super().__init__()
        self.layers = collected.layers
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[..., :length, :], layer.values[..., :length, :]

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        """Return a layer's cached keys and values, followed by the pass's own."""
        layer = self.layers[layer_idx]
        return torch.cat([layer.keys, key_states], dim=-2), torch.cat([layer.values, value_states], dim=-2)

    def select_rows(self, rows: Tensor) -> FrozenPrefix:
        """Return the cache of some of its rows."""
        some = copy.copy(self)
        some.layers = [copy.copy(layer) for layer in self.layers]
        some.keep_rows(rows)
        return some

    def keep_rows(self, rows: Tensor) -> None:
        """Forget all but the given rows."""
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]


def standing_in(blocks: Sequence[nn.Module], output: Any) -> contextlib.AbstractContextManager[None]:
    """Let blocks return ``output`` without computing, in the passes inside."""

    def stand_in(*_: Any, **__: Any) -> Any:
        return output

    return overridden("forward", dict.fromkeys(blocks, stand_in))


def replacing_output(module: nn.Module, hidden: Tensor, column: int) -> contextlib.AbstractContextManager[Any]:
    """Put other hidden states into what a module returns, from a column on, in the passes inside.

    Args:
        module: returns hidden states of shape ``(rows, tokens, width)``.
        hidden: the other hidden states, shape ``(rows, columns, width)``.
        column: the first one's.
    """

    def replace(_: nn.Module, __: Any, output: Any) -> Any:
        own = hidden_of(output)
        return with_hidden(output, torch.cat([own[:, :column], hidden, own[:, column + hidden.shape[1] :]], dim=1))

    return module.register_forward_hook(replace)


def head_at(
    head: nn.Module, rows: Tensor, columns: Tensor, *, in_place: bool = False
) -> contextlib.AbstractContextManager[None]:
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
    own = head.forward

    def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        at = rows.to(hidden.device), columns.to(hidden.device)
        logits = own(hidden[at].unsqueeze(0), *args, **kwargs)
        if not in_place:
            return logits
        whole = logits.new_zeros(*hidden.shape[:-1], logits.shape[-1])
        whole[at] = logits[0]
        return whole

    return overridden("forward", {head: forward})


def hidden_of(output: Any) -> Tensor:
    """Return the hidden states in what a block returns: a tensor, or a tuple that begins with it."""
    return output if isinstance(output, Tensor) else output[0]


def with_hidden(output: Any, hidden: Tensor) -> Any:
    """Return a block's output with other hidden states in it."""
    return hidden if isinstance(output, Tensor) else (hidden, *output[1:])


def same_logits(part: Tensor, full: Tensor, dtype: torch.dtype) -> bool:
    """Whether running a part of a model gave what running all of it does.

    Args:
        part: logits of the part.
        full: logits of the full pass, same shape.
        dtype: what the model computes in: half precision rounds differently when fewer tokens are computed at once.
    """
    tolerance = 1e-3 if dtype in (torch.float32, torch.float64) else 5e-2
    return bool((part - full).abs().max() <= tolerance * full.abs().max().clamp(min=1.0))
