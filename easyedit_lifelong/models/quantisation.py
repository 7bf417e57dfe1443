"""Recognise projections whose weight is quantised: it has no numbers that an update could be added to."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from easyedit_lifelong.models.wrappers import inner_projection


def quantised_weight(module: nn.Module) -> str | None:
    """Return a description of a projection's quantised weight; None if the weight is a plain matrix of numbers.

    A weight is quantised if it is made of integers (bitsandbytes), if it is a tensor of another class (torchao,
    quanto), or if there is none, since the projection packs its numbers (GPTQ, AWQ, torch's quantised modules).
    """
    module = inner_projection(module)
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return "a packed weight" if _declared_shape(module) is not None else None
    if not weight.dtype.is_floating_point:
        return f"a weight of {str(weight.dtype).removeprefix('torch.')} codes"
    if type(weight.data) is not Tensor:
        return f"a weight of the class {type(weight.data).__name__}"
    if weight.dtype.itemsize == 1:
        return f"a weight of {str(weight.dtype).removeprefix('torch.')} numbers"
    return None


def quantised_shape(module: nn.Module) -> tuple[int, int] | None:
    """Return the numbers of inputs and outputs of a projection with a quantised weight; None if they are not known."""
    return _declared_shape(inner_projection(module)) if quantised_weight(module) is not None else None


def update_dtype(module: nn.Module) -> torch.dtype:
    """Return the dtype in which updates of a projection are computed: that of its weight, or float32 if it is wider."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or quantised_weight(module) is not None:
        return torch.float32
    return torch.promote_types(weight.dtype, torch.float32)


def _declared_shape(module: nn.Module) -> tuple[int, int] | None:
    """Return the numbers of inputs and outputs that a module's attributes say, as those of ``nn.Linear`` do."""
    inputs, outputs = getattr(module, "in_features", None), getattr(module, "out_features", None)
    return (inputs, outputs) if isinstance(inputs, int) and isinstance(outputs, int) else None
