"""What a layer gets to see of texts: one pass through the blocks below it, and no further."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.covariance.plan import batches
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.models.encoding import pad_rows
from easyedit_lifelong.models.runner import Runner
from easyedit_lifelong.models.suffix import PassEnded

_BATCH_TOKENS = 2048


@torch.no_grad()
def inputs_at(runner: Runner, layer: nn.Module, rows: Sequence[list[int]]) -> list[Tensor]:
    """Return a layer's inputs at every token of some rows.

    Args:
        runner: of the model.
        layer: the layer; what comes behind it isn't computed.
        rows: token ids, in any number.

    Returns:
        One tensor for each row, ``(tokens, width)``, in the model's dtype.

    Raises:
        EditError: the layer didn't run, or gets no vector for every token.
    """
    taken: dict[tuple[int, ...], Tensor] = {}
    seen: list[Tensor | None] = []
    distinct = [list(row) for row in dict.fromkeys(tuple(row) for row in rows)]

    def take(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(args[0] if args else kwargs.get("hidden_states"))
        raise PassEnded

    handle = layer.register_forward_pre_hook(take, with_kwargs=True)
    try:
        for batch in batches(distinct, _BATCH_TOKENS):
            ids, mask = pad_rows(batch, runner.pad, "right", runner.device)
            seen.clear()
            with contextlib.suppress(PassEnded):
                runner.call(ids, mask, mask.sum(dim=1))
            whole = seen[0] if seen else None
            if not isinstance(whole, Tensor) or whole.dim() != 3 or whole.shape[:2] != ids.shape:
                raise EditError(f"{type(layer).__name__} gets no vector for every token; name another in inner_params")
            for row, inputs in zip(batch, whole, strict=True):
                taken[tuple(row)] = inputs[: len(row)]
    finally:
        handle.remove()
    return [taken[tuple(row)] for row in rows]
