"""Matrix products in bfloat16 inside a model in float32, for passes that need not be exact.

While a vector is trained, most of the time goes into products of a few hundred rows with the weights of the blocks.
x86 CPUs with bfloat16 instructions (AVX-512 BF16, AMX) compute them nearly twice as fast in bfloat16. Inputs and
weights are rounded to 8 significant bits, sums are not, and results are rounded again. Everything else (norms,
attention, residual sums, the output head) stays in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from easyedit_lifelong.models.linear import ReplacedForwards
from easyedit_lifelong.models.quantisation import quantised_weight

AUTO, BFLOAT16 = "auto", "bfloat16"
TRAIN_DTYPES = (None, BFLOAT16, AUTO)
"""The values of ``train_dtype`` in hyperparameters."""

_FAST_ON_CPU = ("avx512_bf16", "amx_bf16")
"""CPU capabilities, as torch names them, with which a product in bfloat16 is faster than one in float32."""

_FIRST_FAST_GPU = (8, 0)
"""The first compute capability with products in bfloat16: NVIDIA's Ampere."""


def reduces_products(train_dtype: str | None, device: torch.device) -> bool:
    """Return whether products are computed in bfloat16 while vectors are trained.

    Args:
        train_dtype: the hyperparameter: None, ``bfloat16``, or ``auto`` for bfloat16 on x86 CPUs and GPUs that have
            instructions for it.
        device: the device of the model.
    """
    if train_dtype != AUTO:
        return train_dtype == BFLOAT16
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _FIRST_FAST_GPU
    capabilities: Callable[[], Any] | None = getattr(torch.cpu, "get_capabilities", None)  # torch 2.9 has none
    known = capabilities() if device.type == "cpu" and capabilities is not None else {}
    return any(known.get(name, False) for name in _FAST_ON_CPU)


class ReducedProducts(ReplacedForwards):
    """Computes the linear layers of modules in bfloat16.

    This affects float32 ``nn.Linear`` layers and GPT-2's ``Conv1D``, not subclasses, which may compute more than a
    product. Weights count as constants: only the layers' inputs get gradients, in bfloat16, too. The weights are
    rounded once, here, and take half of their own memory again.

    Args:
        modules: the modules.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        super().__init__(modules, _reduced_forward)


def _reduced_forward(layer: Any) -> Callable[[Tensor], Tensor] | None:
    """Return a replacement of a layer's ``forward``; None if the layer is no plain product with a float32 weight."""
    if type(layer) is not nn.Linear and type(layer) is not Conv1D:
        return None
    weight = layer.weight.detach()
    if weight.dtype != torch.float32 or weight.device.type == "meta" or quantised_weight(layer) is not None:
        return None
    weight = (weight.t() if type(layer) is Conv1D else weight).to(torch.bfloat16).contiguous()
    bias = None if layer.bias is None else layer.bias.detach()

    def forward(input: Tensor) -> Tensor:
        product = F.linear(input.to(torch.bfloat16), weight).to(input.dtype)
        return product if bias is None else product + bias

    return forward
