"""Scores as text: how a number is written, which scores a run has, and which of them come first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from easyedit_lifelong.evaluation.metrics import METRICS
from easyedit_lifelong.reporting.report.read import Interval, Run, in_order

MAIN = (
    "ES",
    "ERR",
    "reliability",
    "generality",
    "locality",
    "relation_specificity",
    "portability",
    "TRR",
    "ARR",
    "generation_match",
    "generation_match_rephrase",
)
"""The scores that say most about a run, the most important first."""

SECONDS = "seconds an edit"

_BEFORE = {"ES": "reliability", "ERR": "reliability"}
"""Scores that ask the same questions, so that the unedited model's is noted once."""


@dataclass(frozen=True)
class Score:
    """One number of a run.

    Attributes:
        name: the metric's.
        value: as text.
        interval: its 95 % interval as text, or nothing.
        before: the unedited model's score as text, or nothing.
        kind: how it was taken.
        meaning: what it is.
        number: the value.
        best: whether it is the best of several runs.
    """

    name: str
    value: str
    interval: str = ""
    before: str = ""
    kind: str = ""
    meaning: str = ""
    number: float | None = None
    best: bool = False


def shown(value: float | None, name: str = "") -> str:
    """Return a score as it is written, three decimals of small values and fewer of big ones; nothing for None."""
    if value is None:
        return ""
    if name in METRICS and METRICS[name].kind == "count" and value == round(value):
        return f"{value:.0f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"


def shown_interval(interval: Interval | None, name: str = "") -> str:
    """Return an interval as it is written; nothing if there is none."""
    return "" if interval is None else f"[{shown(interval[0], name)}, {shown(interval[1], name)}]"


def score_rows(run: Run) -> list[Score]:
    """Return a run's last scores, each beside what it was before any edit."""
    scores, intervals = run.scores(), run.intervals()
    return [
        Score(
            name,
            shown(scores[name], name),
            shown_interval(intervals.get(name), name),
            shown(scores.get(f"{_BEFORE.get(name, name)}_before"), name),
            run.kind(name),
            METRICS[name].meaning if name in METRICS else "",
            scores[name],
        )
        for name in in_order(scores)
        if not (name.endswith("_before") and name.removesuffix("_before") in scores)
    ]


def seconds_row(run: Run) -> list[Score]:
    """Return the time that an edit took, if it is known."""
    seconds = run.timing.get("seconds_per_edit")
    return [] if seconds is None else [Score(SECONDS, f"{seconds:.2f}", number=seconds)]


def main_names(runs: Sequence[Run]) -> list[str]:
    """Return the main scores that any of these runs has; reliability only where it isn't ERR under another name."""
    scores = [run.scores() for run in runs]
    names = [name for name in MAIN if any(name in one for one in scores)]
    if all(one.get("reliability") == one.get("ERR") for one in scores) and "ERR" in names:
        names = [name for name in names if name != "reliability"]
    return names


def direction(name: str) -> str:
    """Return whether a higher value is better, a lower one, or neither: ``higher``, ``lower`` or ``none``."""
    if name == SECONDS:
        return "lower"
    return METRICS[name].direction if name in METRICS else "none"


def best(name: str, values: Sequence[float | None]) -> set[int]:
    """Return the positions of the best values, as they are written; none if all are the same or none is better."""
    known = [value for value in values if value is not None]
    if len(known) < 2 or direction(name) == "none":
        return set()
    top = shown(max(known) if direction(name) == "higher" else min(known), name)
    found = {i for i, value in enumerate(values) if value is not None and shown(value, name) == top}
    return set() if len(found) == len(known) else found
