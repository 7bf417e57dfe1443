"""The progress of a sweep, in a terminal and in a log file."""

from __future__ import annotations

import io
from dataclasses import dataclass

import pytest
from rich.console import Console

from easyedit_lifelong.reporting import sweep_progress as module
from easyedit_lifelong.reporting.sweep_progress import SweepProgress, sweep_progress


@dataclass
class FakeCell:
    """A cell whose journal has a number of lines."""

    name: str
    lines: int = 0
    n_requests: int = 10

    def n_done(self) -> int:
        return self.lines


@pytest.fixture
def cells() -> list[FakeCell]:
    """A finished cell, one that was cut short, and a new one."""
    return [FakeCell("ended", 10), FakeCell("cut", 4), FakeCell("new")]


def text_of(progress: SweepProgress) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(progress.view())
    return console.export_text()


def test_the_live_view_has_all_cells_together_and_those_at_work(cells: list[FakeCell]) -> None:
    console = Console(width=100, force_terminal=True, file=io.StringIO())
    with sweep_progress(console, cells, cells[1:]) as progress:  # type: ignore[arg-type]
        assert text_of(progress).strip() == "1/3 cells ended, 14/30 requests"
        cells[2].lines = 8
        progress.update()
        text = text_of(progress)
        assert "1/3 cells ended, 22/30 requests, about " in text and "new  8/10" in text and "cut" not in text
        cells[1].lines = 10
        progress.ended("cut", None)
        progress.ended("new", "the loss is NaN")
        assert text_of(progress).strip() == "3/3 cells ended, 28/30 requests, 1 failed"
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[2/3] cut: finished; 10 requests" in printed and "[3/3] new: failed: the loss is NaN" in printed


def test_a_cell_can_end_while_the_view_is_drawn(cells: list[FakeCell]) -> None:
    """rich draws the view in another thread."""

    class EndsNew(dict[str, int]):
        """Numbers of requests; the cell ``new`` ends when the number of another cell is read."""

        def __getitem__(self, name: str) -> int:
            if name == "cut" and "new" in progress._pending:
                progress.ended("new", None)
            return super().__getitem__(name)

    progress = SweepProgress(Console(file=io.StringIO(), force_terminal=True), cells, cells[1:])  # type: ignore[arg-type]
    progress._done = EndsNew(progress._done)
    assert text_of(progress).strip() == "2/3 cells ended, 14/30 requests"


def test_a_log_gets_a_line_now_and_then(cells: list[FakeCell], monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(width=60, file=io.StringIO())
    with sweep_progress(console, cells, cells[1:]) as progress:  # type: ignore[arg-type]
        cells[2].lines = 1
        progress.update()
        assert console.file.getvalue() == ""  # type: ignore[attr-defined]
        monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", -1)
        progress.update()
    (line,) = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert line.startswith("1/3 cells ended, 15/30 requests, about ") and line.endswith("left; new 1/10")
