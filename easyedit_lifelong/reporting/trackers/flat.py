"""A point of a run's curve as one flat row, which is all that tables and services can hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

INTERVALS = "intervals"


def flat(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return metrics under one name each.

    The confidence intervals, ``{"intervals": {"ERR": [low, high]}}``, become ``ERR_low`` and ``ERR_high``;
    whatever else is nested becomes ``outer.inner``. A number of numpy's or torch's becomes Python's.
    """
    row: dict[str, Any] = {}
    for name, value in metrics.items():
        if name == INTERVALS and isinstance(value, Mapping):
            for metric, bounds in value.items():
                if bounds is not None:
                    row[f"{prefix}{metric}_low"], row[f"{prefix}{metric}_high"] = map(_plain, bounds)
        elif isinstance(value, Mapping):
            row |= flat(value, f"{prefix}{name}.")
        else:
            row[f"{prefix}{name}"] = _plain(value)
    return row


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics that are numbers, under one name each."""
    return {name: float(value) for name, value in flat(metrics).items() if isinstance(value, (int, float))}


def _plain(value: Any) -> Any:
    return value.item() if callable(getattr(value, "item", None)) and not getattr(value, "ndim", 0) else value
