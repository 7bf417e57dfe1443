"""What a cell of a sweep gets on a Ray cluster."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

RAY_KEYS: Mapping[str, Any] = {"cpus": float, "gpus": float, "retries": int, "address": str | None}

_LEAST = 1e-4
"""Ray counts resources in units of this size."""


@dataclass(frozen=True)
class RayResources:
    """Resources of one cell, and the cluster.

    Attributes:
        cpus: CPU cores of a cell.
        gpus: GPUs of a cell; a fraction shares a GPU.
        retries: how often a cell is started again when its worker or its node dies.
        address: the address of the cluster; None for ``RAY_ADDRESS`` or, without it, this machine.
    """

    cpus: float = 1
    gpus: float = 0
    retries: int = 2
    address: str | None = None


def ray_resources(values: Mapping[str, Any], problems: list[str]) -> RayResources:
    """Return the resources that the section ``ray`` of a grid names; append problems to a list."""
    resources = RayResources(**values)
    for name in ("cpus", "gpus", "retries"):
        value = getattr(resources, name)
        if not math.isfinite(value):
            problems.append(f"ray.{name}: {value:g} is not a finite number")
        elif value < 0:
            problems.append(f"ray.{name}: {value:g} is less than 0")
        elif 0 < value < _LEAST:
            problems.append(f"ray.{name}: {value:g} is less than {_LEAST:g}, the least that Ray can assign")
    if 1 < resources.gpus < math.inf and resources.gpus % 1:
        problems.append(f"ray.gpus: {resources.gpus:g} is more than one GPU, and not a whole number")
    return resources
