"""The overview of a comparison: its columns, its sentence, and the lengths of its bars. Many curves have no bands."""

from __future__ import annotations

from pathlib import Path

import pytest

from easyedit_lifelong.reporting.report.comparison import MAX_BANDS, comparison_plots
from easyedit_lifelong.reporting.report.comparison_table import UNEDITED, comparison_tables
from easyedit_lifelong.reporting.report.overview import bar, overview_of
from easyedit_lifelong.reporting.report.page import comparison_page
from easyedit_lifelong.reporting.report.read import read_run
from easyedit_lifelong.reporting.report.run_files import RunFiles
from easyedit_lifelong.reporting.report.score_rows import SECONDS, Score
from easyedit_lifelong.reporting.report.style import figure_options
from tests.support.report_runs import write_run


def _runs(folder: Path, count: int) -> list[RunFiles]:
    return [read_run(write_run(folder / str(n), method=f"M{n}", edits=40 + n, seed=n)) for n in range(count)]


def test_the_overview_says_what_the_runs_are_and_what_each_column_means(tmp_path: Path) -> None:
    runs = _runs(tmp_path, 2)
    del runs[1].summary["metrics"]["locality"]
    overview = overview_of(runs, ["a", "b"])
    assert overview.about.startswith(f"2 runs on {runs[0].model}: 40 to 41 edits of {runs[0].data}.")
    assert overview.table.names == [UNEDITED, "a", "b"]
    assert (
        overview.table.metrics[:3] == ["reliability", "generality", "locality"] and "ERR" not in overview.table.metrics
    )
    assert [name for name, _ in overview.meanings] == overview.table.metrics
    column = overview.table.metrics.index("locality")
    assert overview.table.cells[1][column].number == runs[0].scores()["locality"]
    assert overview.table.cells[2][column].value == ""


def test_scores_of_single_round_runs_are_not_called_those_after_all_edits(tmp_path: Path) -> None:
    runs = _runs(tmp_path, 2)
    for run in runs:
        run.summary.update(n_edits=40, protocol="consecutive")
    assert overview_of(runs, ["a", "b"]).about.endswith("Scores are those after all edits of each run.")
    runs[1].summary["protocol"] = "single-round"
    mixed = "after all edits of each run, or after each batch of single-round runs"
    assert overview_of(runs, ["a", "b"]).about.endswith(f"Scores are those {mixed}.")
    assert all(mixed in table.caption for table in comparison_tables(runs, ["a", "b"]) if table.title != "Costs")
    with figure_options():
        assert "These runs have different protocols: compare them with care." in comparison_page(runs, ["a", "b"])[0]
    assert overview_of(runs[1:], ["b"]).about.endswith("Scores are those after each batch of single-round runs.")


def test_a_run_of_edits_without_reliability_shows_err(tmp_path: Path) -> None:
    runs = _runs(tmp_path, 2)
    for run in runs:
        del run.summary["metrics"]["reliability"]
        for entry in run.curve:
            entry.pop("reliability", None)
    assert overview_of(runs, ["a", "b"]).table.metrics[0] == "ERR"


@pytest.mark.parametrize(
    ("score", "length"),
    [
        (Score("locality", "0.250", number=0.25), "25.0%"),
        (Score("locality", "", number=None), ""),
        (Score(SECONDS, "0.50", number=0.5), ""),
        (Score("efficacy_magnitude", "-0.100", number=-0.1), ""),
    ],
)
def test_only_shares_have_bars(score: Score, length: str) -> None:
    assert bar(score) == length


@pytest.mark.parametrize("count", [2, MAX_BANDS + 1])
def test_a_figure_of_many_runs_has_curves_without_bands(tmp_path: Path, count: int) -> None:
    runs = _runs(tmp_path, count)
    with figure_options():
        (plot, *_), _ = comparison_plots(runs, [run.method for run in runs])
        page, _ = comparison_page(runs, [run.method for run in runs])
    (axes,) = plot.figure.axes
    assert len(axes.lines) == count
    assert bool(axes.collections) == (count <= MAX_BANDS)
    assert ("Bands are 95 % intervals" in page) == (count <= MAX_BANDS)
    assert page.index('id="overview"') < page.index('id="scores"') < page.index('id="runs"')
