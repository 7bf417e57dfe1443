"""Calls that fail or give damaged results, to interrupt an edit at a chosen point."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def damage_nth_call(function: Callable[..., Any], call: int, damage: Callable[[Any], Any]) -> Callable[..., Any]:
    """Return a function that works like this one, except that the result of its n-th call is damaged."""
    calls = 0

    def damaged(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        result = function(*args, **kwargs)
        calls += 1
        return damage(result) if calls == call else result

    return damaged


def nans(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of this shape that holds only NaN."""
    return torch.full_like(tensor, float("nan"))


def interrupt(_: Any) -> Any:
    """Raise what Ctrl+C raises."""
    raise KeyboardInterrupt
