"""Skip padding in the modules that compute every token independently.

Rows of different lengths are padded to one width, as attention needs them. But projections do most of the work, and
they compute every token independently. Here they receive only the wanted tokens, as one sequence, and their output is 0
at all others. So rows of all lengths share large matrix products, and padding costs nothing.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from easyedit_lifelong.models.overrides import overridden
from easyedit_lifelong.models.plain_models import is_plain

_PROJECTIONS = (nn.Linear, Conv1D)
_ELEMENTWISE = ("torch.nn.modules.activation", "torch.nn.modules.dropout", "transformers.activations")
"""Python modules that define activations and dropout: an MLP has these between its projections."""


def token_wise_modules(block: nn.Module) -> list[nn.Module]:
    """Return the largest submodules of a block that are known to compute every token independently.

    These are projections, and MLPs that consist of projections and elementwise modules. A module with hooks or a
    replaced ``forward`` doesn't count: the hooks expect tensors of shape ``(rows, columns, width)``.
    """
    if is_plain(block) and (type(block) in _PROJECTIONS or _is_mlp(block)):
        return [block]
    return [part for child in block.children() for part in token_wise_modules(child)]


def mlps_of(block: nn.Module) -> list[nn.Module]:
    """Return the MLPs among the token-wise submodules of a block."""
    return [part for part in token_wise_modules(block) if type(part) not in _PROJECTIONS]


def computing_only(modules: Iterable[nn.Module], wanted: Tensor) -> contextlib.AbstractContextManager[None]:
    """Return a context in which token-wise modules compute only the wanted tokens; their output is 0 at all others.

    Args:
        modules: modules that :func:`token_wise_modules` returned.
        wanted: mask of the wanted tokens among those that the modules receive, shape ``(rows, columns)``.
    """
    if wanted.all():
        return contextlib.nullcontext()
    indices = wanted.flatten().nonzero().squeeze(1)
    return overridden("forward", {module: _packed_forward(module, wanted.shape, indices) for module in set(modules)})


def _packed_forward(module: nn.Module, shape: torch.Size, indices: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a ``forward`` that computes only the tokens at the given indices of the flattened rows."""
    original: Any = module.forward

    def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args or kwargs or hidden.dim() != 3 or hidden.shape[:2] != shape:  # MPT's MLPs add a second argument
            return original(hidden, *args, **kwargs)
        local = indices.to(hidden.device)
        out = original(hidden.flatten(0, 1).index_select(0, local).unsqueeze(0)).squeeze(0)
        return out.new_zeros(shape.numel(), out.shape[1]).index_copy(0, local, out).view(*shape, -1)

    return forward


def _is_mlp(module: nn.Module) -> bool:
    """Whether a module is an MLP that consists of projections and elementwise modules only."""
    kinds = [type(child) for child in module.children()]
    return (
        type(module).__name__.endswith("MLP")
        and len(inspect.signature(type(module).forward).parameters) == 2  # itself and the hidden states, no residual
        and any(kind in _PROJECTIONS for kind in kinds)
        and all(kind in _PROJECTIONS or kind.__module__ in _ELEMENTWISE for kind in kinds)
    )
