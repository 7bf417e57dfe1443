"""Flatten the metrics of a scoring to one row, for tables and services that can't store nested values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

INTERVALS = "intervals"


def flatten(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested metrics as a flat dictionary.

    The intervals ``{"intervals": {"ERR": [low, high]}}`` become ``ERR_low`` and ``ERR_high``; other nested values get
    dotted names (``outer.inner``). Numbers of numpy and torch become Python numbers.

    Args:
        metrics: the metrics by name.
        prefix: added to every name.
    """
    row: dict[str, Any] = {}
    for name, value in metrics.items():
        if name == INTERVALS and isinstance(value, Mapping):
            for metric, bounds in value.items():
                if bounds is not None:
                    row[f"{prefix}{metric}_low"], row[f"{prefix}{metric}_high"] = map(_plain, bounds)
        elif isinstance(value, Mapping):
            row |= flatten(value, f"{prefix}{name}.")
        else:
            row[f"{prefix}{name}"] = _plain(value)
    return row


def numeric_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the flattened metrics that are numbers."""
    return {name: float(value) for name, value in flatten(metrics).items() if isinstance(value, (int, float))}


def _plain(value: Any) -> Any:
    """Return a number of numpy or torch as a Python number, any other value unchanged."""
    return value.item() if callable(getattr(value, "item", None)) and not getattr(value, "ndim", 0) else value
