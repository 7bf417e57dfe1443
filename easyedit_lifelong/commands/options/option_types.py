"""Converters for the values of options. Each raises an error that says what the value must be."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any


def _number(convert: type, accept: Callable[[Any], bool], description: str) -> Callable[[str], Any]:
    """Return a converter from text to a number.

    Args:
        convert: ``int`` or ``float``.
        accept: whether a number is allowed.
        description: the allowed numbers in words, for the message of the :class:`argparse.ArgumentTypeError`.
    """

    def read(text: str) -> Any:
        try:
            number = convert(text)
        except ValueError:
            number = math.nan
        if not accept(number):
            raise argparse.ArgumentTypeError(f"{text!r} is not {description}")
        return number

    return read


_LIMIT = 2**63  # torch takes no larger seed, and nothing can be counted so far

whole_number = _number(int, lambda number: -_LIMIT <= number < _LIMIT, "a whole number")
positive_int = _number(int, lambda number: 1 <= number < _LIMIT, "a whole number greater than 0")
count = _number(int, lambda number: 0 <= number < _LIMIT, "a whole number of at least 0")
positive_float = _number(float, lambda number: 0 < number < math.inf, "a number greater than 0")
temperature = _number(float, lambda number: 0 <= number < math.inf, "a number of at least 0")
probability = _number(float, lambda number: 0 <= number <= 1, "a number from 0 to 1")


def share(text: str) -> float:
    """Convert text to a number greater than 0 and at most 1."""
    number = positive_float(text)
    if number > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number greater than 0 and at most 1")
    return number


def positive_ints(text: str) -> tuple[int, ...]:
    """Convert a comma-separated list of whole numbers greater than 0."""
    return tuple(positive_int(part.strip()) for part in text.split(","))


def names(text: str) -> tuple[str, ...]:
    """Convert a comma-separated list of names."""
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty entry")
    return parts
