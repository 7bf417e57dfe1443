"""Short texts of hyperparameter values, for tables and progress lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def values_text(values: Mapping[str, Any]) -> str:
    """Return values of hyperparameters as a short text, such as ``layers 3-7, v_lr 0.05``."""
    return ", ".join(f"{name} {_text(value)}" for name, value in values.items())


def _text(value: Any) -> str:
    """Return one value; of a list, only its ends."""
    if isinstance(value, float):
        return f"{value:g}"
    if not isinstance(value, list) or not value:
        return str(value)
    if len(value) == 1:
        return _text(value[0])
    is_range = all(type(item) is int for item in value) and value == list(range(value[0], value[0] + len(value)))
    return f"{value[0]}-{value[-1]}" if is_range else f"{_text(value[0])} … {_text(value[-1])}"
