"""Ranges of numbers that users write, such as ``3-7``."""

from __future__ import annotations

from easyedit_lifelong.errors import CovarianceError

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


def parse_layers(text: str) -> list[int]:
    """Parse a list of layers such as ``3-7,9``; return their numbers.

    Raises:
        CovarianceError: the text is not such a list.
    """
    layers: list[int] = []
    for part in text.replace(" ", "").split(","):
        first, dash, last = part.partition("-")
        try:
            if not first.isdecimal() or (dash and not last.isdecimal()):
                raise ValueError("no numbers")
            layers += number_range(first, last or first)
        except ValueError:
            raise CovarianceError(f"layers: {text!r} isn't a list of layers such as 13-17 or 3-7,9") from None
    return list(dict.fromkeys(layers))
