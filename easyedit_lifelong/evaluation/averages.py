"""Scores of many requests, kept by request until they are averaged: a mean and its confidence interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from easyedit_lifelong.evaluation.intervals import Interval, bootstrap
from easyedit_lifelong.evaluation.metrics import mean
from easyedit_lifelong.evaluation.success import harmonic_score

RequestScores = dict[str, list[float]]
"""Scores of one request by name, one for each question of that kind."""


@dataclass
class Scores:
    """Scores by name, with the interval of each that has one."""

    values: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, Interval] = field(default_factory=dict)

    def __or__(self, other: Scores) -> Scores:
        """Return both; of a score that is in both, the other's."""
        kept = {name: interval for name, interval in self.intervals.items() if name not in other.values}
        return Scores(self.values | other.values, kept | other.intervals)

    def renamed(self, names: Mapping[str, str]) -> Scores:
        """Return the scores that are named, under their new names."""
        return Scores(
            {new: self.values[old] for old, new in names.items() if old in self.values},
            {new: self.intervals[old] for old, new in names.items() if old in self.intervals},
        )

    def entry(self) -> dict[str, Any]:
        """Return the scores as a line of ``metrics.jsonl`` holds them."""
        return {**self.values, "intervals": {name: list(ends) for name, ends in self.intervals.items()}}


def averages(by_request: Sequence[RequestScores]) -> dict[str, float]:
    """Return each score's mean over all questions; one that nothing was asked about is left out."""
    names = dict.fromkeys(name for scores in by_request for name in scores)
    means = {name: mean(x for scores in by_request for x in scores.get(name, ())) for name in names}
    return {name: value for name, value in means.items() if value is not None}


def gather(by_request: Sequence[RequestScores]) -> Scores:
    """Return each score's mean over all questions and its interval over requests, and what follows from them."""
    values = averages(by_request)
    intervals = {
        name: interval
        for name in values
        if (interval := bootstrap([scores.get(name, ()) for scores in by_request])) is not None
    }
    scores = Scores(values, intervals)
    for suffix in ("", "_before"):
        harmonic = harmonic_score(by_request, values, suffix)
        if harmonic is not None:
            name, value, interval = harmonic
            scores |= Scores({name: value}, {} if interval is None else {name: interval})
    return scores
