"""What a run's journal tells beside its scores: the codebook's growth, α and z-scores, the time each edit took."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from easyedit_lifelong.reporting.report.read import Entry, Run, is_number

Point = tuple[float, float]


@dataclass(frozen=True)
class KeyEvent:
    """What one edit did to a GRACE codebook.

    Attributes:
        n_edits: number of edits so far.
        decision: add, expand, covered, split or supersede.
        radius: deferral radius of the key that answers the edit.
        distance: of the edit's query to the nearest key before it; None of the first.
    """

    n_edits: int
    decision: str
    radius: float
    distance: float | None


def key_growth(run: Run) -> list[Point]:
    """Return (number of edits, number of keys), from the journal or else from the scorings."""
    grown = [(float(n), float(entry["n_keys"])) for n, entry in _edits(run) if is_number(entry.get("n_keys"))]
    return grown or [(float(n), keys) for n, keys, _ in run.points("n_keys")]


def key_events(run: Run) -> list[KeyEvent]:
    """Return what each edit did to the codebook."""
    return [
        KeyEvent(
            n, str(entry.get("decision", "edit")), float(entry["radius"]),
            float(entry["nearest_distance"]) if is_number(entry.get("nearest_distance")) else None,
        )
        for n, entry in _edits(run)
        if is_number(entry.get("radius"))
    ]  # fmt: skip


def decisions(events: Sequence[KeyEvent]) -> dict[str, int]:
    """Count the decisions, the most frequent first."""
    return dict(Counter(event.decision for event in events).most_common())


def z_scores(run: Run) -> dict[int, list[float]]:
    """Return the highest z-scores of each CoachHook batch's prompts (last hook layer), by the batch's number."""
    batches: dict[int, list[float]] = {}
    for _, entry in _edits(run):
        if is_number(entry.get("highest_z_score")) and isinstance(entry.get("batch"), int):
            batches.setdefault(entry["batch"], []).append(float(entry["highest_z_score"]))
    return batches


def alphas(run: Run) -> dict[int, dict[str, float]]:
    """Return CoachHook's α by hook layer, after each batch, by the batch's number in the journal."""
    number = {str(entry.get("case_id")): entry["batch"] for entry in run.journal if isinstance(entry.get("batch"), int)}
    found = {}
    for position, (cases, by_layer) in enumerate(run.alphas, 1):
        if by_layer:
            found[number.get(str(cases[0]), position) if cases else position] = by_layer
    return found


def edit_seconds(run: Run) -> list[Point]:
    """Return (number of requests dealt with, seconds that it took)."""
    taken = [entry for entry in run.journal if entry.get("status") in ("edited", "failed")]
    return [(n, float(e["seconds"])) for n, e in enumerate(taken, 1) if is_number(e.get("seconds"))]


def running_median(points: Sequence[Point], window: int | None = None) -> list[Point]:
    """Return the median of the values around each point: of ``window`` of them, or of a twentieth."""
    window = window or max(5, len(points) // 20)
    half = window // 2
    return [
        (x, statistics.median(y for _, y in points[max(0, i - half) : i + half + 1])) for i, (x, _) in enumerate(points)
    ]


def thinned(points: Sequence[Point], most: int = 800) -> list[Point]:
    """Return no more than so many points, evenly spread, the last among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]


def _edits(run: Run) -> list[tuple[int, Entry]]:
    """Return the edits that were made, numbered."""
    return list(enumerate((entry for entry in run.journal if entry.get("status") == "edited"), 1))
