"""The terminal's tables of scores and answers."""

from __future__ import annotations

import io

from rich.console import Console

from easyedit_lifelong.reporting.console_tables import answer_table, score_table


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
