"""The terminal's tables of scores and answers."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from easyedit_lifelong.evaluation.metrics import METRICS
from easyedit_lifelong.reporting.console_tables import answer_table, closing_lines, score_table


def _console() -> Console:
    return Console(width=200, record=True, force_terminal=False)


def test_scores_are_shown_with_their_kind() -> None:
    console = _console()
    score_table(console, {"generation_match": 0.5, "ES": 0.98765}, "title")
    lines = console.export_text().splitlines()
    scores = [line.split()[:3] for line in lines if line.startswith(("ES", "generation_match"))]
    assert scores == [["ES", "0.988", "teacher-forced"], ["generation_match", "0.500", "generated"]]


def test_brackets_in_answers_are_printed_unchanged() -> None:
    console = _console()
    answers = ["[bold]x[/bold]", "[/red]", "a\nb", "\\[c]", "trailing\\", "\\"]
    answer_table(console, [("prompt", answer) for answer in answers], ("prompt", "answer"), "title")
    text = console.export_text()
    for answer in ("[bold]x[/bold]", "[/red]", "a b", "\\[c]", "trailing\\"):
        assert answer in text


def test_the_unedited_models_score_is_shown_in_the_same_row() -> None:
    console = Console(file=io.StringIO(), width=120)
    score_table(console, {"TRR": 0.5, "TRR_before": 0.625, "ES": 1.0}, "title")
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    rows = {line.split()[0]: line.split()[1:4] for line in lines if line.strip()}
    assert rows["TRR"][:2] == ["0.625", "0.500"]
    assert rows["ES"][:2] == ["1.000", "teacher-forced"]
    assert "TRR_before" not in rows


@pytest.mark.parametrize("width", [60, 80])
def test_a_narrow_terminal_has_each_metrics_scores_in_one_line_and_its_definition_below(width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    names = ("ES", "ERR", "TRR", "generation_match_rephrase", "neighborhood_magnitude")
    scores = dict.fromkeys((*names, "TRR_before", "generation_match_rephrase_before"), 0.5)
    score_table(console, scores, "title")
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= width
    for name in names:
        row = next(number for number, line in enumerate(lines) if line.split()[:1] == [name])
        before = ["0.500"] if f"{name}_before" in scores else []
        assert lines[row].split() == [name, *before, "0.500", METRICS[name].kind]
        definition = METRICS[name].meaning.split()
        assert all(line.startswith("  ") for line in lines[row + 1 : row + 2])
        assert " ".join(lines[row + 1 : row + 4]).split()[: len(definition)] == definition
    assert len(lines) <= 2 + 3 * len(names)


def test_the_parts_of_the_time_add_up() -> None:
    timing = {"seconds_per_edit": 0.5, "seconds_editing": 1.0, "seconds_scoring": 2.0, "seconds_total": 4.5}
    summary = {"n_failed": 0, "n_skipped": 0, "timing": timing}
    console = _console()
    closing_lines(console, summary, Path("out"))
    lines = console.export_text()
    assert "0.50 s an edit (mean); 0 failed, 0 skipped." in lines
    assert "4.5 s (editing 1.0 s, scoring 2.0 s, other 1.5 s)." in lines


def test_counts_are_whole_numbers() -> None:
    console = _console()
    score_table(console, {"n_keys": 100.0, "edits_per_key": 1.25}, "title")
    rows = {line.split()[0]: line.split()[1:2] for line in console.export_text().splitlines()}
    assert (rows["n_keys"], rows["edits_per_key"]) == (["100"], ["1.250"])
