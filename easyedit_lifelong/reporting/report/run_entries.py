"""Entries of a run's files, which can hold anything: their scores and intervals."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

from easyedit_lifelong.evaluation.metrics import METRICS
from easyedit_lifelong.methods.report_sections import is_number

Entry = dict[str, Any]
Interval = tuple[float, float]


def as_mapping(value: Any) -> Entry:
    """Return the value if it is a dictionary, else an empty dictionary."""
    return value if isinstance(value, dict) else {}


def sort_names(names: Iterable[str]) -> list[str]:
    """Return distinct names of scores: first those of :data:`METRICS`, in its order, then the others."""
    distinct = dict.fromkeys(names)
    return [*(name for name in METRICS if name in distinct), *(name for name in distinct if name not in METRICS)]


def scores_of(entry: Mapping[str, Any], extra_names: Container[str]) -> dict[str, float]:
    """Return the scores in an entry: the numbers with a name in :data:`METRICS` or ``extra_names``."""
    return {
        name: float(value)
        for name, value in entry.items()
        if (name in METRICS or name in extra_names) and is_number(value)
    }


def intervals_of(entry: Mapping[str, Any]) -> dict[str, Interval]:
    """Return the intervals in an entry by the name of the score; skip values that aren't intervals."""
    return {
        name: (float(pair[0]), float(pair[1]))
        for name, pair in as_mapping(entry.get("intervals")).items()
        if isinstance(pair, (list, tuple)) and len(pair) == 2 and all(map(is_number, pair))
    }
