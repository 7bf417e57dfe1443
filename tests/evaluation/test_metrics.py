"""Every metric is described, and the score table shows it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from easyedit_lifelong.evaluation.metrics import METRICS, mean
from easyedit_lifelong.reporting.console_tables import score_table

# Users rely on these keys of summary.json, so that later versions may add keys but not rename any.
PUBLISHED = {
    "ES",
    "ERR",
    "TRR",
    "TRR_before",
    "reliability",
    "generality",
    "locality",
    "relation_specificity",
    "portability",
    "reliability_before",
    "generality_before",
    "portability_before",
    "generation_match",
    "generation_match_word",
    "generation_match_rephrase",
}


def test_published_metric_names_still_exist() -> None:
    assert set(METRICS) >= PUBLISHED


def test_each_metric_has_kind_direction_meaning_and_formula() -> None:
    for name, spec in METRICS.items():
        assert spec.name == name
        assert spec.kind in {"teacher-forced", "generated", "count"}
        assert spec.direction in {"higher", "lower", "none"}
        assert len(spec.meaning) > 10 and len(spec.formula) > 10, name


def test_lower_is_better_only_for_perplexities_keys_and_old_answers() -> None:
    lower = {name for name, spec in METRICS.items() if spec.direction == "lower"}
    assert lower == {name for name in METRICS if "ppl" in name or "perplexity" in name} | {
        "n_further_keys",
        "n_keys",
        "old_answer",
        "old_answer_before",
    }


def test_generated_scores_have_the_kind_generated() -> None:
    generated = {name for name, spec in METRICS.items() if spec.kind == "generated"}
    parts = ("match", "_f1", "fluency", "judge_score", "old_answer", "continuation_entropy")
    assert generated == {name for name in METRICS if any(part in name for part in parts)}


def test_every_metric_has_a_row_of_the_score_table() -> None:
    """Otherwise a metric could be computed without ever being shown."""
    console = Console(file=io.StringIO(), width=240)
    score_table(console, {name: 0.246 if name.endswith("_before") else 0.123 for name in reversed(METRICS)}, "scores")
    lines = [line.split() for line in console.file.getvalue().splitlines() if line.strip()]
    rows = {line[0]: line[1:] for line in lines if line[0] in METRICS}
    after = [name for name in METRICS if not name.endswith("_before")]
    assert list(rows) == after, "the rows are not in the order of METRICS, or a score before has a separate row"
    for name, row in rows.items():
        scores = ["0.246", "0.123"] if f"{name}_before" in METRICS else ["0.123"]
        assert row[: len(scores) + 1] == [*scores, METRICS[name].kind]


@pytest.mark.parametrize("scored", [{"TRR_before": 0.5}, {"TRR": 0.5}])
def test_the_score_table_shows_only_computed_scores(scored: dict[str, float]) -> None:
    console = Console(file=io.StringIO(), width=160)
    score_table(console, scored, "scores")
    shown = {line.split()[0]: line for line in console.file.getvalue().splitlines() if line.strip()}
    assert shown.keys() & METRICS.keys() == {"TRR"}
    assert shown["TRR"].split()[1] == "0.500"


def test_every_score_before_has_the_kind_and_formula_of_the_score_after() -> None:
    before = {name: METRICS[name.removesuffix("_before")] for name in METRICS if name.endswith("_before")}
    assert {"reliability", "generality", "portability", "TRR"} <= {spec.name for spec in before.values()}
    for name, after in before.items():
        spec = METRICS[name]
        assert (spec.kind, spec.formula, spec.direction) == (after.kind, after.formula, after.direction)


def test_the_mean_of_nothing_is_none() -> None:
    assert mean([0.0, 0.5, 1.0, 0.5]) == 0.5
    assert mean(x for x in (True, False)) == 0.5
    assert mean([]) is None, "the mean over no questions is a number"
    assert mean([0.1] * 10) == pytest.approx(0.1)
