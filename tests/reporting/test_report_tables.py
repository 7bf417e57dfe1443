"""A report's tables: which scores they show, how numbers are written, and which value is best."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

from easyedit_lifelong.reporting.report.comparison_data import comparison_csv, comparison_json
from easyedit_lifelong.reporting.report.comparison_table import COSTS, UNEDITED, compare, comparison_tables
from easyedit_lifelong.reporting.report.comparison_text import (
    latex_table,
    latex_tables,
    markdown_table,
    markdown_tables,
)
from easyedit_lifelong.reporting.report.costs import bytes_per_edit
from easyedit_lifelong.reporting.report.read import read_run
from easyedit_lifelong.reporting.report.score_rows import DISK, MEMORY, SECONDS, best, main_names, score_rows, shown
from easyedit_lifelong.reporting.units import byte_text
from tests.support.report_runs import write_run


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_comparison_tables_escape_names_and_mark_the_best_value(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path / name, method=name, edits=10, seed=n)) for n, name in enumerate("ab")]
    table = compare(runs, ["50% & a_b", "x|y"], ["ERR", "TRR", "locality"])
    markdown, latex = markdown_table(table).splitlines(), latex_table(table)
    assert cells_of(markdown[0]) == ["run", "edits", "scored", "ERR ↑", "TRR ↑", "locality ↑"]
    assert len({len(line) for line in markdown}) == 1, "the columns aren't aligned"
    assert cells_of(markdown[2])[:3] == [UNEDITED, "0", "10"]
    assert cells_of(markdown[3])[:3] == ["50% & a\\_b", "10", "10"]
    assert cells_of(markdown[4])[0] == "x\\|y" and len(markdown) == 5
    body = latex[latex.index("\\midrule") : latex.index("\\bottomrule")].splitlines()[1:]
    assert body[1].startswith(r"50\% \& a\_b & 10 & 10 & ")
    assert all(len(re.split(r"(?<!\\)&", row)) == 3 + len(table.metrics) for row in body)
    value, interval = runs[0].scores()["ERR"], runs[0].intervals()["ERR"]
    assert table.cells[1][0].value == f"{value:.3f}"
    assert f"{{\\scriptsize [{interval[0]:.3f}, {interval[1]:.3f}]}}" in body[1]
    higher = 1 if value > runs[1].scores()["ERR"] else 2
    assert [row[0].best for row in table.cells] == [False, higher == 1, higher == 2]
    assert f"\\textbf{{{table.cells[higher][0].value}}}" in body[higher]


def test_the_unedited_model_has_a_row_and_missing_values_are_dashes(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path / name, method=name, seed=n)) for n, name in enumerate("ab")]
    del runs[1].summary["metrics"]["generality"]
    table = compare(runs, ["a", "b"], ["ERR", "generality", "locality", "portability"])
    assert table.metrics == ["ERR", "generality", "locality"], "a column without values is shown"
    lines = [cells_of(line) for line in markdown_table(table).splitlines()]
    assert lines[2] == [UNEDITED, "0", "40", "0.050", "0.040", "-"]
    assert lines[4][4] == "-"
    assert " & 0.040 & -- " in latex_table(table)
    runs[1].summary["metrics"]["reliability_before"] = 0.9
    assert compare(runs, ["a", "b"], ["ERR"]).names == ["a", "b"], "runs on other data share the unedited model's score"


def test_the_unedited_model_is_never_the_best(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path / name, seed=n)) for n, name in enumerate("ab")]
    for run in runs:
        run.summary["metrics"]["TRR_before"] = 0.99
    assert [row[0].best for row in compare(runs, ["a", "b"], ["TRR"]).cells].count(True) == 1
    assert not compare(runs, ["a", "b"], ["TRR"]).cells[0][0].best


def test_the_number_of_scored_edits_is_that_of_the_last_sample(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path / name, edits=10, failed=2)) for name in "ab"]
    runs[1].curve[-1]["sampled"] = 5
    table = compare(runs, ["a", "b"], ["ERR"])
    assert table.edits == [0, 10, 10]
    assert table.scored == [None, 12, 5], "failed edits count, and a sample has its own number"


def test_costs_are_those_of_the_folder_the_journal_and_the_summary(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", edits=10, batch=5)
    (folder / "state").mkdir()
    (folder / "state" / "step.safetensors").write_bytes(bytes(25_000))
    run = read_run(folder)
    run.journal[3]["peak_memory"], run.journal[4]["peak_memory"] = 1_420_000_000, 7
    run.summary["rollback"] = "batches"
    cells = {cell.name: cell.value for cell in compare([run], ["x"], COSTS).cells[0]}
    assert cells == {
        "failed": "0",
        "batch": "5",
        SECONDS: "0.50",
        DISK: "2.5 kB",
        MEMORY: "1.42 GB",
        "rollback": "batches",
    }
    without = compare([read_run(write_run(tmp_path / "old"))], ["x"], COSTS)
    assert without.metrics == ["failed", "batch", SECONDS], "an unknown cost has a column"


def test_of_snapshots_only_the_latest_counts_as_disk_space(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", edits=10)
    for name, size in (("after-000009", 999), ("after-000010", 50), (".writing", 999)):
        (folder / "state" / name).mkdir(parents=True)
        (folder / "state" / name / "weights").write_bytes(bytes(size))
    assert bytes_per_edit(read_run(folder)) == 5


def test_byte_counts_have_three_digits_and_a_unit() -> None:
    assert [byte_text(n) for n in (7, 999.4, 999.6, 1234, 999_600, 2.5e7, 1.42e9, 1.2e12, 2e15)] == [
        "7 B",
        "999 B",
        "1 kB",
        "1.23 kB",
        "1 MB",
        "25 MB",
        "1.42 GB",
        "1.2 TB",
        "2e+03 TB",
    ]


def test_the_tables_have_captions_and_fit_into_120_columns(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path / name, method=name, seed=n)) for n, name in enumerate("ab")]
    for number, run in enumerate(runs):
        run.summary["metrics"] |= {
            "portability": 0.4,
            "reliability": 0.4 + number / 10,
            "relation_specificity": 0.3 + number / 10,
            "ARR": 0.9,
            "generation_match": 0.5 + number,
            "generation_match_rephrase": 0.5,
            "chat_reliability": 0.3,
            "chat_generation_match": 0.2,
            "chat_contains_match": 0.4,
            "old_answer": 0.25,
            "continuation_entropy": 4.5,
            "text_perplexity": 12.5,
            "capability": 0.5,
            "capability_norm": 0.5,
        }
    tables = comparison_tables(runs, ["AlphaEdit", "MEMIT-native"])
    text = markdown_tables(tables)
    assert [table.title for table in tables] == [
        "Edited facts, teacher-forced",
        "Edited facts, generated",
        "Edits asked in another form",
        "What the model writes after its answers",
        "What the edits must not change",
        "Text and knowledge unrelated to the edits",
        "Costs",
    ]
    assert max(map(len, text.splitlines())) <= 120
    assert all(f"**{table.title}**" in text and f"% {table.title}. " in latex_tables(tables) for table in tables)
    assert "smollm2-135m on facts.json" in text
    assert "↓: lower is better" in text


def test_scores_of_the_harness_are_rows_with_their_standard_errors(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "a", method="a"))
    run.summary["lm_eval"] = {
        "arc_easy": {
            "acc": {"before": 0.5, "after": 0.25},
            "acc_stderr": {"before": 0.01, "after": 0.02},
            "exact_match,strict": {"before": None, "after": 1.0},
        },
        "broken": {"acc": 3, "acc_norm": {"after": "high"}},
    }
    rows = {row.name: row for row in score_rows(run) if row.kind == "lm-eval"}
    assert list(rows) == ["arc_easy acc", "arc_easy exact_match,strict"]
    accuracy = rows["arc_easy acc"]
    assert (accuracy.before, accuracy.value, accuracy.number) == ("0.500", "0.250", 0.25)
    assert accuracy.interval == "± 0.020 SE"
    assert (rows["arc_easy exact_match,strict"].before, rows["arc_easy exact_match,strict"].interval) == ("", "")


def test_csv_and_json_have_every_score_and_no_value_for_a_missing_one(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path / name, method=name, seed=n)) for n, name in enumerate("ab")]
    del runs[1].summary["metrics"]["generality"]
    unedited, a, b = csv.DictReader(io.StringIO(comparison_csv(runs, ["a", "b"])))
    assert (unedited["run"], unedited["ERR"], unedited["locality"]) == (UNEDITED, "0.05", "")
    assert unedited["scored"] == "40", "as in the other tables"
    assert float(a["generality"]) == runs[0].scores()["generality"] and b["generality"] == ""
    assert (a["scored"], a["batch_size"], a["seconds_per_edit"]) == ("40", "1", "0.5")
    assert "peak_memory" not in a and "portability" not in a
    content = json.loads(comparison_json(runs, ["a", "b"]))
    assert content[UNEDITED]["TRR_before"] == 0.61
    assert [run["run"] for run in content["runs"]] == ["a", "b"]
    assert content["runs"][0]["intervals"]["ERR"] == list(runs[0].intervals()["ERR"])
    assert [entry["n_edits"] for entry in content["runs"][0]["curve"]] == [10, 20, 30, 40]
    assert content["runs"][0]["peak_memory"] is None


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
