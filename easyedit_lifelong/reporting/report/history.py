"""The time that each edit of a run took, and what figures do with long series."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TypeVar

from easyedit_lifelong.methods.report_sections import Point, is_number
from easyedit_lifelong.reporting.report.read import Run

T = TypeVar("T")


def edit_seconds(run: Run) -> list[Point]:
    """Return (number of requests handled, seconds that it took)."""
    taken = [entry for entry in run.journal if entry.get("status") in ("edited", "failed")]
    return [(n, float(e["seconds"])) for n, e in enumerate(taken, 1) if is_number(e.get("seconds"))]


def running_median(points: Sequence[Point]) -> list[Point]:
    """Return the median of the values around each point: of a twentieth of them, or of 5."""
    half = max(5, len(points) // 20) // 2
    return [
        (x, statistics.median(y for _, y in points[max(0, i - half) : i + half + 1])) for i, (x, _) in enumerate(points)
    ]


def thinned(points: Sequence[T], most: int = 800) -> list[T]:
    """Return at most so many points, evenly spread, the last among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]
