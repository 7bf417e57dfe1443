"""Ranges of numbers that users write, such as ``3-7``."""

from __future__ import annotations

_MAX_NUMBERS = 10_000
"""No model has more blocks; a longer range is a mistake, and its list could fill the memory."""


def number_range(first: str, last: str) -> range:
    """Return the numbers from ``first`` to ``last``.

    Args:
        first: decimal digits.
        last: decimal digits.

    Raises:
        ValueError: the range is empty or too long.
    """
    if max(len(first), len(last)) > len(str(_MAX_NUMBERS)):
        raise ValueError("the numbers are too large")
    numbers = range(int(first), int(last) + 1)
    if not 0 < len(numbers) <= _MAX_NUMBERS:
        raise ValueError("the range is empty or too long")
    return numbers
