"""Damaged run folders: a report is still written, and a resumed run refuses lines that it can't use."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from easyedit_lifelong.commands.report import write_report
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.reporting.report.read import read_run
from easyedit_lifelong.reporting.report.style import figure_options
from easyedit_lifelong.runs.run_lines import JOURNAL_FIELDS, SCORING_FIELDS, read_lines
from tests.support import thoroughness
from tests.support.report_runs import write_run

VALUES: list[Any] = [None, True, -1, 0, 10**400, 1e308, float("nan"), "x", "", "\x1b[2J", [], [[]], {}, {"a": None}]
FILES = ("journal.jsonl", "metrics.jsonl", "generations.jsonl", "summary.json")
LINES = [b"5", b'"x"', b"null", b"[]", b"[" * 100_000, b"1" * 5000, b"{", b"\xff\xfe", b"", b'{"a": 1' + b"0" * 400]

LINE = {"status": "edited", "n_edits": 1, "case_id": 1, "ES": 1.0, "seconds": 0.5}
BAD_LINES: list[dict[str, Any]] = [
    {**LINE, "status": "x"},
    {**LINE, "status": ["edited"]},
    {**LINE, "seconds": []},
    {**LINE, "seconds": 10**400},
    {**LINE, "ES": None},
    {**LINE, "n_edits": -1},
    {**LINE, "n_edits": True},
    {**LINE, "scores": {"ES": 1.0}},
    {**LINE, "scores": {"ES": ["1"]}},
    {**LINE, "scores": {"ES": [10**400]}},
    {**LINE, "scores": {"ES": [True]}},
    {},
]


@pytest.mark.parametrize(
    "line", [*(json.dumps(line).encode() for line in BAD_LINES), *(line for line in LINES if line)]
)
def test_a_resumed_run_refuses_a_damaged_line_with_its_number(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(json.dumps(LINE).encode() + b"\n" + line + b"\n")
    with pytest.raises(RunError, match=r"journal\.jsonl, line 2: .*can't be resumed"):
        read_lines(path, JOURNAL_FIELDS)


SCORING = {"n_edits": 1, "n_seen": 1, "seconds_scoring": 0.5, "intervals": {"ERR": [0.0, 1.0]}}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("n_seen", "n_edits") for value in ([], "x", -1, True, 1.5, None)),
        ("seconds_scoring", "x"),
        ("intervals", [[0.0, 1.0]]),
        ("intervals", {"ERR": 0.5}),
        ("intervals", {"ERR": [0.5]}),
        ("intervals", {"ERR": [0.0, 0.5, 1.0]}),
        ("intervals", {"ERR": [0.0, "1"]}),
        ("intervals", {"ERR": [0.0, None]}),
    ],
)
def test_a_resumed_run_refuses_a_damaged_scoring(tmp_path: Path, name: str, value: Any) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{json.dumps(SCORING)}\n{json.dumps({**SCORING, name: value})}\n")
    with pytest.raises(RunError, match=rf"metrics\.jsonl, line 2: {name} can't be"):
        read_lines(path, SCORING_FIELDS)


def test_scores_and_intervals_may_be_infinite(tmp_path: Path) -> None:
    journal, scorings = tmp_path / "journal.jsonl", tmp_path / "metrics.jsonl"
    line = {**LINE, "scores": {"perplexity": [math.inf, math.nan, 2]}}
    scoring = {**SCORING, "intervals": {"perplexity": [1.5, math.inf]}}
    journal.write_text(f"{json.dumps(line)}\n", encoding="utf-8")
    scorings.write_text(f"{json.dumps(scoring)}\n", encoding="utf-8")
    assert read_lines(journal, JOURNAL_FIELDS)[0]["scores"]["perplexity"][0] == math.inf
    assert read_lines(scorings, SCORING_FIELDS)[0]["intervals"] == scoring["intervals"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "run", edits=6, points=2)


@st.composite
def damages(draw: st.DrawFn) -> Callable[[Path], None]:
    """Return a function that changes fields of some lines of one file, or replaces lines."""
    name = draw(st.sampled_from(FILES))
    changes = draw(
        st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30), st.sampled_from(range(len(VALUES)))), max_size=4)
    )
    inserted = draw(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(LINES)), max_size=2))

    def damage(folder: Path) -> None:
        path = folder / name
        text = path.read_text(encoding="utf-8")
        lines = [json.loads(line) for line in (text.splitlines() if name.endswith("l") else [text])]
        for line_number, key_number, value in changes:
            line = lines[line_number % len(lines)]
            line[sorted(line)[key_number % len(line)]] = VALUES[value]
        data = [json.dumps(line).encode() for line in lines]
        for at, line in inserted:
            data.insert(at % (len(data) + 1), line)
        path.write_bytes(b"\n".join(data) + b"\n")

    return damage


@settings(
    max_examples=150 if thoroughness.full else 8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(damage=damages())
def test_a_report_is_written_whatever_the_files_hold(run: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = tmp_path / "run"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run, folder)
    damage(folder)
    with figure_options():
        write_report([read_run(folder)], tmp_path / "report" / "report.html")
        plt.close("all")
    assert (tmp_path / "report" / "report.html").read_text(encoding="utf-8").rstrip().endswith("</html>")
