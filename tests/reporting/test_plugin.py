"""The tracker that comes with the package, and tables of what was scored."""

from __future__ import annotations

import csv
from pathlib import Path

from rich.console import Console

from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.reporting.progress import edit_progress
from easyedit_lifelong.reporting.tables import answer_table, score_table


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_csv(tmp_path: Path) -> None:
    tracker = get_plugins().trackers.get("csv").create(tmp_path, {})
    tracker.log(2, {"ES": 1.0, "ERR": 0.5})
    assert _rows(tmp_path / "metrics.csv") == [{"n_edits": "2", "ES": "1.0", "ERR": "0.5"}], (
        "there while the run goes on"
    )
    tracker.log(4, {"ERR": 0.25, "ES": 0.75, "generation_match": 0.5})
    tracker.close()
    assert _rows(tmp_path / "metrics.csv")[1] == {"n_edits": "4", "ES": "0.75", "ERR": "0.25"}


def test_a_score_that_is_missing_leaves_its_cell_empty(tmp_path: Path) -> None:
    tracker = get_plugins().trackers.get("csv").create(tmp_path, {})
    tracker.log(1, {"ES": 1.0, "locality": 1.0})
    tracker.log(2, {"ES": 0.5})
    tracker.close()
    assert _rows(tmp_path / "metrics.csv")[1] == {"n_edits": "2", "ES": "0.5", "locality": ""}


def test_closing_before_anything_was_heard(tmp_path: Path) -> None:
    get_plugins().trackers.get("csv").create(tmp_path, {}).close()
    assert (tmp_path / "metrics.csv").read_text() == ""


def _console() -> Console:
    return Console(width=200, record=True, force_terminal=False)


def test_scores_say_how_they_were_taken() -> None:
    console = _console()
    score_table(console, {"generation_match": 0.5, "ES": 0.98765}, "title")
    lines = console.export_text().splitlines()
    scores = [line.split()[:3] for line in lines if line.startswith(("ES", "generation_match"))]
    assert scores == [["ES", "0.988", "teacher-forced"], ["generation_match", "0.500", "generated"]]


def test_answers_are_shown_as_they_were_said() -> None:
    console = _console()
    said = ["[bold]x[/bold]", "[/red]", "a\nb", "\\[c]", "trailing\\", "\\"]
    answer_table(console, [("prompt", answer) for answer in said], ("prompt", "said"), "title")
    text = console.export_text()
    for answer in ("[bold]x[/bold]", "[/red]", "a b", "\\[c]", "trailing\\"):
        assert answer in text


def test_progress_where_nobody_watches() -> None:
    console = _console()
    with edit_progress(console, 3) as progress:
        for done in (1, 2, 3):
            progress.edited(done, {"ES": 1.0, "ERR": done / 3})
    assert console.export_text() == "3/3 edits  ES 1.000  ERR 1.000\n", "a log file needs no line per edit"


def test_progress_where_somebody_watches() -> None:
    console = Console(width=120, record=True, force_terminal=True)
    with edit_progress(console, 2) as progress:
        progress.edited(2, {"ES": 0.5})
    text = console.export_text()
    assert "2/2" in text
    assert "ES 0.500" in text
