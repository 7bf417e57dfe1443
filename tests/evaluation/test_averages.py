"""Scores of requests are averaged over questions, with intervals over requests."""

from __future__ import annotations

import pytest

from easyedit_lifelong.evaluation.averages import Scores, averages, averages_with_intervals
from easyedit_lifelong.evaluation.intervals import Interval, bootstrap

BY_REQUEST = [{"a": [1.0, 0.0], "b": []}, {"a": [1.0]}, {"a": [0.5], "b": []}]


def test_averages_are_over_questions() -> None:
    assert averages(BY_REQUEST) == {"a": 2.5 / 4}


def test_intervals_are_over_requests() -> None:
    scores = averages_with_intervals(BY_REQUEST)
    assert scores.values == {"a": 0.625}
    assert scores.intervals == {"a": bootstrap([[1.0, 0.0], [1.0], [0.5]])}


def test_one_request_has_a_score_but_no_interval() -> None:
    assert averages_with_intervals([{"a": [0.5]}]) == Scores({"a": 0.5}, {})


def test_the_rome_score_is_the_harmonic_mean_of_three_scores() -> None:
    """3 / (1/0.75 + 1/0.5 + 1/1) = 9/13."""
    names = ("efficacy_success", "paraphrase_success", "neighborhood_success")
    rows = [(1, 1, 1), (1, 0, 1), (1, 1, 1), (0, 0, 1)]
    by_request = [{name: [float(v)] for name, v in zip(names, row, strict=True)} for row in rows]
    scores = averages_with_intervals(by_request)
    assert scores.values["rome_score"] == pytest.approx(9 / 13)
    interval = scores.intervals["rome_score"]
    assert 0 <= interval.low < 9 / 13 < interval.high <= 1
    no_efficacy = averages_with_intervals([{name: [0.0 if name == names[0] else 1.0] for name in names}] * 2)
    assert no_efficacy.values["rome_score"] == 0.0
    assert "rome_score" not in averages_with_intervals([{names[0]: [1.0], names[1]: [1.0]}]).values


def test_scores_can_be_joined_renamed_and_written() -> None:
    scores = Scores({"a": 1.0, "b": 0.5}, {"a": Interval(0, 1), "b": Interval(0.25, 0.75)})
    joined = scores | Scores({"a": 0.0})
    assert joined.values == {"a": 0.0, "b": 0.5}
    assert joined.intervals == {"b": Interval(0.25, 0.75)}, "a replaced score keeps the interval of the old one"
    assert scores.renamed({"b": "c", "d": "e"}) == Scores({"c": 0.5}, {"c": Interval(0.25, 0.75)})
    assert scores.entry() == {"a": 1.0, "b": 0.5, "intervals": {"a": [0, 1], "b": [0.25, 0.75]}}
