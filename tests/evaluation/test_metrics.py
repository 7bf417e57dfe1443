"""Every number has one meaning, written down."""

from __future__ import annotations

import pytest

from easyedit_lifelong.evaluation.metrics import METRICS, mean
from easyedit_lifelong.reporting import tables

# Keys of summary.json that others rely on: later versions add to them, never rename.
PROMISED = {"ES", "ERR", "TRR", "reliability", "generality", "locality", "generation_match"}


def test_promised_names_are_there() -> None:
    assert set(METRICS) >= PROMISED


def test_each_says_how_it_is_taken_and_what_it_means() -> None:
    for name, spec in METRICS.items():
        assert spec.name == name
        assert spec.kind in {"teacher-forced", "generated"}
        assert len(spec.meaning) > 10 or spec.meaning == "the same on rephrased prompts", name


def test_generated_scores_are_said_to_be_generated() -> None:
    assert {name for name, spec in METRICS.items() if spec.kind == "generated"} == {
        "generation_match", "generation_match_rephrase",
    }  # fmt: skip


def test_every_metric_has_its_place_in_the_table() -> None:
    """A metric that is computed but not shown would go unnoticed."""
    assert set(tables._ORDER) == set(METRICS)


def test_mean() -> None:
    assert mean([0.0, 0.5, 1.0, 0.5]) == 0.5
    assert mean(x for x in (True, False)) == 0.5
    assert mean([]) is None, "no question, no score: neither 0 nor 1"
    assert mean([0.1] * 10) == pytest.approx(0.1)
