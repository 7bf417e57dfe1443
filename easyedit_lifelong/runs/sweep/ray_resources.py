"""What a cell of a sweep gets on a Ray cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

RAY_KEYS: Mapping[str, Any] = {"cpus": float, "gpus": float, "retries": int, "address": str | None}


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
        if getattr(resources, name) < 0:
            problems.append(f"ray.{name}: {getattr(resources, name):g} is less than 0")
    return resources
