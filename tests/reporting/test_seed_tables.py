"""Means over seeds: which scores they are of, their deviations, and numbers of edits."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from easyedit_lifelong.reporting.report.comparison_table import UNEDITED, row_of
from easyedit_lifelong.reporting.report.read import read_run
from easyedit_lifelong.reporting.report.run_files import RunFiles
from easyedit_lifelong.reporting.report.score_rows import SECONDS
from easyedit_lifelong.reporting.report.seed_tables import mean_row, seed_tables
from tests.support.report_runs import write_run


@pytest.fixture
def runs(tmp_path: Path) -> list[RunFiles]:
    """Runs with three seeds."""
    return [read_run(write_run(tmp_path / str(seed), edits=10 + seed, seed=seed)) for seed in range(3)]


def test_a_row_has_the_mean_and_the_deviation_of_every_score(runs: list[RunFiles]) -> None:
    row = mean_row("GRACE", runs)
    values = [run.scores()["ERR"] for run in runs]
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    assert deviation > 0
    assert row.scores["ERR"].value == f"{mean:.3f} ± {deviation:.3f}"
    assert row.scores["ERR"].number == pytest.approx(mean)
    assert (row.name, row.edits, row.scored) == ("GRACE, 3 seeds", 10, 10)
    seconds = statistics.mean(run.timing["seconds_per_edit"] for run in runs)
    assert row.scores[SECONDS].value == f"{seconds:.2f}"


def test_a_score_that_a_run_lacks_has_no_mean(runs: list[RunFiles]) -> None:
    del runs[1].summary["metrics"]["ERR"]
    row = mean_row("GRACE", runs)
    assert "ERR" not in row.scores and "TRR" in row.scores


def test_a_single_run_keeps_its_scores_and_intervals(runs: list[RunFiles]) -> None:
    assert mean_row("GRACE", runs[:1]) == row_of(runs[0], "GRACE")
    assert mean_row("GRACE", runs[:1]).scores["ERR"].interval


def test_the_best_mean_is_marked(runs: list[RunFiles]) -> None:
    tables = seed_tables({"a": runs[:2], "b": runs[2:]})
    table = next(table for table in tables if "ERR" in table.metrics)
    assert table.names == [UNEDITED, "a, 2 seeds", "b"]
    column = table.metrics.index("ERR")
    numbers = [cells[column].number for cells in table.cells[1:]]
    assert [cells[column].best for cells in table.cells[1:]] == [number == max(numbers) for number in numbers]


def test_the_unedited_model_has_the_mean_over_seeds_of_scores_in_which_seeds_differ(runs: list[RunFiles]) -> None:
    """Each seed draws its own records of shuffled data."""
    for seed, run in enumerate(runs[:2]):
        run.summary["hparams"]["seed"] = seed
        run.summary["metrics"]["reliability_before"] = 0.1 + 0.2 * seed
    table = next(table for table in seed_tables({"a": runs[:2], "b": runs[:2]}) if "ERR" in table.metrics)
    assert table.names[0] == UNEDITED
    assert table.cells[0][table.metrics.index("ERR")].value == f"0.200 ± {statistics.stdev([0.1, 0.3]):.3f}"
    assert table.cells[0][table.metrics.index("generality")].value == "0.040"
    one_seed = next(table for table in seed_tables({"a": runs[:1], "b": runs[1:2]}) if "ERR" in table.metrics)
    assert one_seed.cells[0][one_seed.metrics.index("generality")].value == "0.040"
