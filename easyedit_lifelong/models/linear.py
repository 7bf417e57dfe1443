"""Faster linear layers for a few tokens on a CPU.

Training an edit's value multiplies two or three tokens with large matrices, hundreds of times, and so does each step of
generation. For so few rows, the product that ``nn.Linear`` computes (rows times transposed weight) is several times
slower in the CPU's matrix library than the transposed product (weight times transposed rows). The results are equal up
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
from easyedit_lifelong.models.quantisation import quantised_weight

_MAX_ROWS, _MAX_ROWS_OF_LARGE = 4, 8
"""Up to this many rows, the transposed product is faster: with any weight, and with a large one."""
_LARGE = 16_384
"""The number of outputs from which on a weight is large. Output heads are."""


class _FewRowsLinear(torch.autograd.Function):
    """``x @ weight.T`` for few rows and a constant weight: only ``x`` gets a gradient."""

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
        # The library is slow for two and three rows, but not for four.
        rows = F.pad(grad, (0, 0, 0, 4 - len(grad))) if len(grad) in (2, 3) else grad
        return (rows @ weight)[: len(grad)], None


class ReplacedForwards:
    """Replaces ``forward`` of layers in the contexts of :meth:`active`.

    Layers whose ``forward`` something else has replaced (another context, accelerate) keep that one.

    Args:
        modules: the modules that contain the layers.
        replacement: returns a layer's new ``forward``; None for a module that is not replaced.
    """

    def __init__(
        self, modules: Iterable[nn.Module], replacement: Callable[[nn.Module], Callable[[Tensor], Tensor] | None]
    ) -> None:
        parts = {part for module in modules for part in module.modules() if _is_free(part)}
        found = ((part, replacement(part)) for part in parts)
        self._forwards = {part: forward for part, forward in found if forward is not None}

    def active(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which the layers have their new ``forward``."""
        return overridden("forward", {layer: new for layer, new in self._forwards.items() if _is_free(layer)})


class FewTokenLinears(ReplacedForwards):
    """Computes few tokens faster in the linear layers of modules.

    This affects only float32 ``nn.Linear`` layers on the CPU, not subclasses, which may compute more than a product.
    Weights count as constants: only the layers' inputs get gradients.

    Args:
        modules: the modules.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        super().__init__(modules, _fast_forward)

    @classmethod
    def for_generation(cls, model: nn.Module) -> FewTokenLinears:
        """Return those of a model that generates text. A compiled model is not changed: it would be compiled again."""
        return cls([] if any(_is_compiled(part) for part in model.modules()) else [model])


def _fast_forward(layer: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Return a replacement of a layer's ``forward``; None if the layer is no plain linear layer in float32 on a CPU."""
    if type(layer) is not nn.Linear or not _is_fast(layer.weight) or quantised_weight(layer) is not None:
        return None

    def forward(input: Tensor) -> Tensor:
        return few_rows_product(input, layer.weight, layer.bias)

    return forward


def _is_free(layer: nn.Module) -> bool:
    """Return whether nothing has replaced a layer's ``forward``."""
    return "forward" not in vars(layer)


def _is_compiled(module: nn.Module) -> bool:
    """Return whether torch.compile has compiled a module, or its ``forward``."""
    return (
        isinstance(module, torch._dynamo.OptimizedModule)
        or module._compiled_call_impl is not None
        or hasattr(vars(module).get("forward"), "_torchdynamo_orig_callable")
    )


def few_rows_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the output of a linear layer with constant parameters, which is computed faster for few rows.

    More rows, a weight that is not float32 on a CPU, and products under autocast are computed as by ``nn.Linear``.

    Args:
        x: shape ``(…, inputs)``.
        weight: shape ``(outputs, inputs)``.
        bias: shape ``(outputs,)``; None for none.

    Returns:
        Shape ``(…, outputs)``.
    """
    rows = x.reshape(-1, x.shape[-1])
    most_rows = _MAX_ROWS if len(weight) < _LARGE else _MAX_ROWS_OF_LARGE
    weight, bias = weight.detach(), None if bias is None else bias.detach()
    if len(rows) > most_rows or not _is_fast(weight) or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    out = _FewRowsLinear.apply(rows, weight)
    out = out if bias is None else out + bias
    return out.view(*x.shape[:-1], len(weight))


def _is_fast(weight: Tensor) -> bool:
    """Return whether the transposed product is faster with this weight."""
    return weight.device.type == "cpu" and weight.dtype == torch.float32
