"""A report's tables: which scores they show, how numbers are written, and which value is best."""

from __future__ import annotations

import re
from pathlib import Path

from easyedit_lifelong.reporting.report.comparison_table import compare, latex_table, markdown_table
from easyedit_lifelong.reporting.report.read import read_run
from easyedit_lifelong.reporting.report.score_rows import SECONDS, best, main_names, shown
from tests.support.report_runs import write_run


def test_comparison_tables_escape_names_and_mark_the_best_value(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path / name, method=name, edits=10, seed=n)) for n, name in enumerate("ab")]
    table = compare(runs, ["50% & a_b", "x|y"])
    markdown, latex = markdown_table(table).splitlines(), latex_table(table)
    assert [cell.strip() for cell in markdown[0].split("|")[1:-1]] == [
        "run",
        "edits",
        *(f"{name} {'↓' if name == SECONDS else '↑'}" for name in table.metrics),
    ]
    assert markdown[2].startswith("| 50% & a\\_b | 10 | ") and markdown[3].startswith("| x\\|y | 10 | ")
    assert len(markdown) == 4
    body = latex[latex.index("\\midrule") : latex.index("\\bottomrule")].splitlines()[1:]
    assert body[0].startswith(r"50\% \& a\_b & 10 & ")
    assert all(len(re.split(r"(?<!\\)&", row)) == 2 + len(table.metrics) for row in body)
    column = table.metrics.index("ERR")
    value, interval = runs[0].scores()["ERR"], runs[0].intervals()["ERR"]
    assert table.cells[0][column].value == f"{value:.3f}"
    assert f"{{\\scriptsize [{interval[0]:.3f}, {interval[1]:.3f}]}}" in body[0]
    higher = 0 if value > runs[1].scores()["ERR"] else 1
    assert [row[column].best for row in table.cells] == [higher == 0, higher == 1]
    assert f"\\textbf{{{table.cells[higher][column].value}}}" in body[higher]


def test_the_best_value_depends_on_the_metrics_direction() -> None:
    assert best("ERR", [0.5, 0.9, None, 0.9]) == {1, 3}
    assert best("text_perplexity", [5.0, 9.0]) == {0}
    assert best(SECONDS, [5.0, 9.0]) == {0}
    assert best("ERR", [0.9, 0.9]) == set(), "equal values have a best one"
    assert best("ERR", [0.9, None]) == set(), "a single value is the best one"
    assert best("unheard of", [0.1, 0.9]) == set()


def test_scores_are_rounded_by_size_and_counts_are_whole_numbers() -> None:
    assert [shown(x) for x in (0.12345, 12.345, 1234.5)] == ["0.123", "12.35", "1,234"]
    assert shown(20.0, "n_keys") == "20"


def test_reliability_is_omitted_where_it_equals_err(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", edits=4))
    assert "reliability" not in main_names([run])
    run.summary["metrics"]["reliability"] = 0.123
    assert "reliability" in main_names([run])
