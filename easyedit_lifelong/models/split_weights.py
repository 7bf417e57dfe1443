"""Weights that tensor parallelism has split over processes: transformers keeps them as DTensors of torch."""

from __future__ import annotations

from torch import Tensor, nn

from easyedit_lifelong.models.wrappers import inner_projection


def is_split(module: nn.Module) -> bool:
    """Return whether a projection's weight is split, so that its input or output differs between processes."""
    placements = getattr(getattr(inner_projection(module), "weight", None), "placements", ())
    return any(placement.is_shard() for placement in placements)


def whole_values(values: Tensor) -> Tensor:
    """Return the values of a weight; of a split one, those of all processes, which all must call this function."""
    full_tensor = getattr(values, "full_tensor", None)
    return values if full_tensor is None else full_tensor()
