"""Linear layers for a handful of tokens on a CPU.

Training an edit's value sends two or three tokens through large matrices, hundreds of times. For so
few rows, the product that ``nn.Linear`` asks for (rows times transposed weight) is several times
slower in the CPU's matrix library than the same product the other way round. The numbers are equal
to rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from easyedit_lifelong.models.overrides import overridden

_FEW = 8
"""Up to this many rows the other way round is faster."""


class _FewRows(torch.autograd.Function):
    """``x @ weight.T`` for a constant weight and few rows; differentiable in x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        # One row alone would become a matrix-vector product, which is slower than two rows.
        rows = F.pad(x, (0, 0, 0, 1)) if len(x) == 1 else x
        return (weight @ rows.t()).t()[: len(x)].contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        (weight,) = ctx.saved_tensors
        # Two and three rows hit a slow case of the library; four don't.
        rows = F.pad(grad, (0, 0, 0, 4 - len(grad))) if len(grad) in (2, 3) else grad
        return (rows @ weight)[: len(grad)], None


def few_token_linears(modules: Iterable[nn.Module]) -> contextlib.AbstractContextManager[None]:
    """Compute the plain linear layers inside the modules the fast way, where they get few tokens.

    Only float32 ``nn.Linear`` layers on the CPU are touched (not subclasses, which may do more), and
    only inside the context. Their weights are taken for constants: gradients reach the input alone.
    """
    found = {
        layer
        for module in modules
        for layer in module.modules()
        if type(layer) is nn.Linear
        and layer.weight.device.type == "cpu"
        and layer.weight.dtype == torch.float32
        and "forward" not in layer.__dict__
    }
    return overridden("forward", {layer: _forward_of(layer) for layer in found})


def _forward_of(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    weight = layer.weight.detach()
    bias = None if layer.bias is None else layer.bias.detach()

    def forward(x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        if len(rows) > _FEW:
            return F.linear(x, weight, bias)
        out = _FewRows.apply(rows, weight)
        out = out if bias is None else out + bias
        return out.view(*x.shape[:-1], -1)

    return forward
