"""The progress of a run, in a terminal and in a log file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.reporting import progress as progress_module
from easyedit_lifelong.reporting.progress import EditProgress, count_progress, edit_progress
from easyedit_lifelong.runs.api import run_lifelong
from tests.support.tiny_models import FAMILIES

EDIT = {"status": "edited", "ES": 1.0, "prompt": "the capital of [France] is", "target_new": "Rome", "seconds": 0.25}
SCORES = {
    "n_edits": 2,
    "ES": 1.0,
    "ERR": 0.5,
    "reliability": 0.5,
    "TRR": 0.6,
    "n_keys": 2,
    "intervals": {"ERR": [0.25, 0.75]},
}


def _terminal(height: int = 40) -> Console:
    return Console(width=100, height=height, force_terminal=True, file=io.StringIO())


def _text_of(progress: EditProgress) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(progress.view())
    return console.export_text()


def test_a_terminal_shows_the_bar_the_scores_and_the_latest_edits() -> None:
    with edit_progress(_terminal(), 10) as progress:
        assert "0/10" in _text_of(progress)
        for _ in range(8):
            progress.journaled(EDIT)
        progress.journaled({"status": "failed", "prompt": "p", "target_new": None})
        progress.scored(SCORES)
        progress.edited(2, {"ES": 1.0})
        text = _text_of(progress)
    assert "2/10" in text and "0.25 s an edit" in text
    assert "scored at 2 edits" in text and "[0.250, 0.750]" in text
    assert "reliability" not in text, "reliability equals ERR here"
    assert text.count("the capital of [France] is") == 4, "the last five requests aren't four edits and one failure"
    assert "failed" in text and "→ Rome" in text
    assert "scored at" not in _text_of(progress), "more than the bar is left after the end"


def test_a_low_terminal_shows_only_the_bar() -> None:
    with edit_progress(_terminal(height=10), 10) as progress:
        progress.journaled(EDIT)
        progress.edited(1, {})
        assert "1/10" in _text_of(progress) and "France" not in _text_of(progress)


def test_a_log_file_gets_a_line_about_every_30_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: clock[0])
    console = Console(width=100, record=True, file=io.StringIO())
    with edit_progress(console, 100) as progress:
        for done in range(1, 101):
            clock[0] += 2.0
            progress.journaled(EDIT)
            progress.edited(done, {"ES": 1.0})
    lines = console.export_text().splitlines()
    assert lines[0] == "16/100 edits  ES 1.000  0.25 s an edit (median)  about 3 min left"
    assert lines[-1] == "100/100 edits  ES 1.000  0.25 s an edit (median)"
    assert len(lines) == 7


def test_a_log_file_gets_lines_while_answers_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: clock[0])
    console = Console(width=100, record=True, file=io.StringIO())
    with edit_progress(console, 1000) as progress, count_progress(console, "scoring [b]") as count:
        for done in range(10, 110, 10):
            clock[0] += 9.0
            progress.scoring(done, 100)
        count(50, 100)
        count(100, 100)
    assert console.export_text() == "scoring: 40/100 answers\nscoring: 80/100 answers\nscoring [b]: 50/100\n"


def test_a_terminal_shows_a_scoring_until_it_is_done() -> None:
    with edit_progress(_terminal(), 10) as progress:
        progress.scoring(30, 120)
        assert "scoring" in _text_of(progress) and "30/120" in _text_of(progress)
        progress.scoring(120, 120)
        assert "scoring" not in _text_of(progress)


def test_the_remaining_time_of_a_resumed_run_ignores_earlier_edits(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: clock[0])
    console = Console(width=100, record=True, file=io.StringIO())
    with edit_progress(console, 1000) as progress:
        progress.edited(900, {})
        clock[0] = 40.0
        progress.edited(910, {})
    assert console.export_text() == "910/1000 edits  about 6 min left\n"


def test_the_loop_reports_every_journal_line_and_scoring(llama: Any, tokenizer: Any, tmp_path: Path) -> None:
    received: list[tuple[str, Any]] = []

    class RecordingProgress:
        def journaled(self, entry: Mapping[str, Any]) -> None:
            received.append(("journal", entry["case_id"]))

        def scored(self, entry: Mapping[str, Any]) -> None:
            received.append(("scores", entry["n_edits"]))

        def edited(self, done: int, scores: Mapping[str, float]) -> None:
            received.append(("done", done))

    requests = [
        {"prompt": "the capital of France is", "target_new": "Rome"},
        {"prompt": "moon", "target_new": "cheese"},
    ]
    hparams = GraceHyperParams(model_name="m", inner_params=[FAMILIES["llama"][1]], n_iter=2)
    run_lifelong(llama, tokenizer, requests, hparams, retention=[], progress=RecordingProgress())
    assert received == [("journal", 0), ("done", 1), ("journal", 1), ("scores", 2), ("done", 2)]


def test_without_a_terminal_a_short_run_logs_one_line() -> None:
    console = Console(width=200, record=True, force_terminal=False)
    with edit_progress(console, 3) as progress:
        for done in (1, 2, 3):
            progress.edited(done, {"ES": 1.0, "ERR": done / 3})
    assert console.export_text() == "3/3 edits  ES 1.000  ERR 1.000\n", "a log file got a line for each edit"


def test_a_terminal_shows_the_count_and_the_scores() -> None:
    console = Console(width=120, record=True, force_terminal=True)
    with edit_progress(console, 2) as progress:
        progress.edited(2, {"ES": 0.5})
    text = console.export_text()
    assert "2/2" in text
    assert "ES 0.500" in text
