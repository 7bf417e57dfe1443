"""Series of values over a run: the time of each edit, running medians, and thinning for figures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TypeVar

from easyedit_lifelong.methods.report_sections import Point, is_number
from easyedit_lifelong.reporting.report.run_files import RunFiles

T = TypeVar("T")


def edit_seconds(run: RunFiles) -> list[Point]:
    """Return, for each request in the journal that was edited or failed, (its number, seconds)."""
    entries = [entry for entry in run.journal if entry.get("status") in ("edited", "failed")]
    return [(n, float(entry["seconds"])) for n, entry in enumerate(entries, 1) if is_number(entry.get("seconds"))]


def running_median(points: Sequence[Point]) -> list[Point]:
    """Return the running median; its window is a twentieth of the points, but at least 5 of them."""
    half = max(5, len(points) // 20) // 2
    return [
        (x, statistics.median(y for _, y in points[max(0, i - half) : i + half + 1])) for i, (x, _) in enumerate(points)
    ]


def thinned(points: Sequence[T], max_points: int = 800) -> list[T]:
    """Return at most ``max_points`` points, evenly spaced, including the first and the last."""
    if len(points) <= max_points:
        return list(points)
    return [points[round(i * (len(points) - 1) / (max_points - 1))] for i in range(max_points)]
