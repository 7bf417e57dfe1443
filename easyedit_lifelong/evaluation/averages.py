"""Averages of the scores of many requests: means and their confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from easyedit_lifelong.evaluation.intervals import Interval, bootstrap
from easyedit_lifelong.evaluation.metrics import mean
from easyedit_lifelong.evaluation.success import harmonic_score

RequestScores = dict[str, list[float]]
"""The scores of one request: by metric, a list with one value for each question of that kind."""


@dataclass
class Scores:
    """Scores by metric, and their confidence intervals. A score need not have an interval.

    Attributes:
        values: the scores.
        intervals: the confidence intervals.
        further: further entries of a line of ``metrics.jsonl``, which are no single scores.
    """

    values: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, Interval] = field(default_factory=dict)
    further: dict[str, Any] = field(default_factory=dict)

    def __or__(self, other: Scores) -> Scores:
        """Return the union of both; if a metric is in both, ``other`` has precedence."""
        own_intervals = {name: interval for name, interval in self.intervals.items() if name not in other.values}
        return Scores(self.values | other.values, own_intervals | other.intervals, self.further | other.further)

    def renamed(self, names: Mapping[str, str]) -> Scores:
        """Return only the scores that are keys of ``names``, under the names that it maps them to."""
        return Scores(
            {new: self.values[old] for old, new in names.items() if old in self.values},
            {new: self.intervals[old] for old, new in names.items() if old in self.intervals},
        )

    def entry(self) -> dict[str, Any]:
        """Return the scores as entries of a line of ``metrics.jsonl``."""
        return {**self.values, **self.further, "intervals": {name: list(ends) for name, ends in self.intervals.items()}}


def averages(by_request: Sequence[RequestScores]) -> dict[str, float]:
    """Return the mean of each metric over all questions, without metrics that have no question."""
    names = dict.fromkeys(name for scores in by_request for name in scores)
    means = {name: mean(x for scores in by_request for x in scores.get(name, ())) for name in names}
    return {name: value for name, value in means.items() if value is not None}


def averages_with_intervals(by_request: Sequence[RequestScores]) -> Scores:
    """Return the mean of each metric over all questions, its confidence interval over requests, and ROME's Score.

    ROME's Score is added if the scores that it combines are there (:func:`harmonic_score`).
    """
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
