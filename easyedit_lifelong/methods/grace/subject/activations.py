"""What layers get to see of texts: one pass that ends in front of the last of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.covariance.plan import batches
from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.models.encoding import pad_rows
from easyedit_lifelong.models.runner import Runner
from easyedit_lifelong.models.suffix import PassEnded

_BATCH_TOKENS = 2048


def inputs_at(runner: Runner, layer: nn.Module, rows: Sequence[list[int]]) -> list[Tensor]:
    """Return a layer's inputs at every token of some rows.

    Args:
        runner: of the model.
        layer: the layer; what comes behind it isn't computed.
        rows: token ids, in any number.

    Returns:
        One tensor for each row, ``(tokens, width)``, in the model's dtype.

    Raises:
        ModelError: the layer didn't run, or gets no vector for every token.
    """
    name = f"inner_params: {type(layer).__name__}"
    taken: dict[tuple[int, ...], Tensor] = {}
    distinct = [list(row) for row in dict.fromkeys(tuple(row) for row in rows)]
    for batch, seen in passes(runner, {name: layer}, distinct):
        for row, inputs in zip(batch, seen[name], strict=True):
            taken[tuple(row)] = inputs[: len(row)]
    return [taken[tuple(row)] for row in rows]


def passes(
    runner: Runner, layers: Mapping[str, nn.Module], rows: Sequence[list[int]]
) -> Iterator[tuple[list[list[int]], dict[str, Tensor]]]:
    """Yield some rows at a time, and what the layers get of them.

    Args:
        runner: of the model.
        layers: the layers, by what messages call them.
        rows: token ids, in any number.

    Yields:
        The rows of a batch, and each layer's inputs, ``(rows, tokens, width)``, padded on the right.

    Raises:
        ModelError: a layer didn't run, or gets no vector for every token.
    """
    seen: dict[str, Any] = {}
    handles = [
        layer.register_forward_pre_hook(_taking(name, seen, len(layers)), with_kwargs=True)
        for name, layer in layers.items()
    ]
    try:
        for batch in batches(rows, _BATCH_TOKENS):
            ids, mask = pad_rows(batch, runner.pad, "right", runner.device)
            seen.clear()
            with torch.no_grad(), contextlib.suppress(PassEnded):
                runner.call(ids, mask, mask.sum(dim=1))
            for name in layers:
                inputs = seen.get(name)
                if not isinstance(inputs, Tensor) or inputs.dim() != 3 or inputs.shape[:2] != ids.shape:
                    raise ModelError(f"{name} gets no vector for every token; name another layer")
            yield batch, dict(seen)
    finally:
        for handle in handles:
            handle.remove()


def _taking(name: str, seen: dict[str, Any], layers: int) -> Callable[..., None]:
    """Return a hook that keeps what a layer gets, and ends the pass when all layers have got theirs."""

    def take(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen[name] = args[0] if args else kwargs.get("hidden_states")
        if len(seen) == layers:
            raise PassEnded

    return take
