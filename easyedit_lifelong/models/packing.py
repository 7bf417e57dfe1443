"""Leave padding out of what a model computes token by token.

Rows of different lengths are padded to one width. Attention needs them so, but most of the work is done by
projections, which compute every token by itself. They can get the tokens that count as one sequence, and return 0 for
the others. So rows of all lengths are computed at once, in large matrix products.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from easyedit_lifelong.models.overrides import overridden

_PROJECTIONS = (nn.Linear, Conv1D)
_BETWEEN = ("torch.nn.modules.activation", "torch.nn.modules.dropout", "transformers.activations")
"""Modules from here stand between an MLP's projections and change every number for itself."""


def token_wise(block: nn.Module) -> list[nn.Module]:
    """Return the largest parts of a block that are known to take every token for itself.

    These are plain projections, and MLPs that are made of them. What has hooks, or a forward pass that somebody
    else has put on it, isn't touched: whoever did that expects rows and columns.
    """
    if _is_plain(block) and (type(block) in _PROJECTIONS or _is_mlp(block)):
        return [block]
    return [part for child in block.children() for part in token_wise(child)]


def mlps_of(block: nn.Module) -> list[nn.Module]:
    """Return the MLPs among a block's token-wise parts."""
    return [part for part in token_wise(block) if type(part) not in _PROJECTIONS]


def computing_only(modules: Iterable[nn.Module], wanted: Tensor) -> contextlib.AbstractContextManager[None]:
    """Have token-wise modules compute the wanted tokens only, in the passes inside, and return 0 for the others.

    Args:
        modules: from :func:`token_wise`.
        wanted: which tokens, shape ``(rows, columns)``, as the modules get them.
    """
    if wanted.all():
        return contextlib.nullcontext()
    places = wanted.flatten().nonzero().squeeze(1)
    return overridden("forward", {module: _forward_of(module, wanted.shape, places) for module in set(modules)})


def _forward_of(module: nn.Module, shape: torch.Size, places: Tensor) -> Callable[[Tensor], Tensor]:
    own: Any = module.forward

    def forward(hidden: Tensor) -> Tensor:
        if hidden.dim() != 3 or hidden.shape[:2] != shape:
            return own(hidden)
        here = places.to(hidden.device)
        out = own(hidden.flatten(0, 1).index_select(0, here).unsqueeze(0)).squeeze(0)
        return out.new_zeros(shape.numel(), out.shape[1]).index_copy(0, here, out).view(*shape, -1)

    return forward


def _is_plain(module: nn.Module) -> bool:
    return not any(
        part._forward_hooks
        or part._forward_pre_hooks
        or part._backward_hooks
        or part._backward_pre_hooks
        or "forward" in part.__dict__
        for part in module.modules()
    )


def _is_mlp(module: nn.Module) -> bool:
    kinds = [type(child) for child in module.children()]
    return (
        type(module).__name__.endswith("MLP")
        and any(kind in _PROJECTIONS for kind in kinds)
        and all(kind in _PROJECTIONS or kind.__module__ in _BETWEEN for kind in kinds)
    )
