"""The progress of a run: a live view on a terminal, else a line every 30 seconds."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from easyedit_lifelong.methods.report_sections import is_number
from easyedit_lifelong.plurals import counted
from easyedit_lifelong.reporting.console_tables import plain_table
from easyedit_lifelong.reporting.report.run_entries import intervals_of
from easyedit_lifelong.reporting.report.score_rows import MAIN, format_interval, shown

SECONDS_BETWEEN_LINES = 30
_MAX_EDITS_SHOWN = 5
_MIN_HEIGHT = 20
"""On a terminal with fewer lines than this, only the progress bar is shown."""


class EditProgress:
    """Shows the number of processed requests, the latest scores, and the latest edits.

    It has all methods of :class:`~easyedit_lifelong.runs.state.Progress`, including the optional ones.

    Args:
        console: the console.
        total: number of requests.
        bar: the progress bar; None if the console isn't a terminal.
    """

    def __init__(self, console: Console, total: int, bar: Bar | None) -> None:
        self.console, self.total, self._bar = console, total, bar
        self._task = bar.add_task("editing", total=total, scores="") if bar else None
        self._part_task = bar.add_task("", total=1, scores="", visible=False) if bar else None
        self._last_line_at = self._started_at = time.monotonic()
        self._done_at_start: int | None = None
        self._seconds: deque[float] = deque(maxlen=25)
        self._edits: deque[Mapping[str, Any]] = deque(maxlen=_MAX_EDITS_SHOWN)
        self._scores: Mapping[str, Any] = {}
        self.finished = False

    def prepared(self, done: int, total: int) -> None:
        """Show the progress of the method's preparation before its first edit."""
        self._show_part("preparing", done, total, "tokens")

    def scoring(self, done: int, total: int) -> None:
        """Show how many answers of a scoring are computed."""
        self._show_part("scoring", done, total, "answers")

    def _show_part(self, name: str, done: int, total: int, unit: str) -> None:
        """Show the progress of what is done between edits, until it is done."""
        if self._bar is not None and self._part_task is not None:
            self._bar.update(self._part_task, description=name, completed=done, total=total, visible=done < total)
        elif done < total and time.monotonic() - self._last_line_at > SECONDS_BETWEEN_LINES:
            self._last_line_at = time.monotonic()
            self.console.print(f"{name}: {done}/{total} {unit}", highlight=False)

    def edited(self, done: int, scores: Mapping[str, float]) -> None:
        """Show that ``done`` requests were processed, with the latest scores."""
        text = "  ".join(f"{name} {score:.3f}" for name, score in scores.items())
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, scores=" ".join(filter(None, [text, self._pace()])))
        elif done == self.total or time.monotonic() - self._last_line_at > SECONDS_BETWEEN_LINES:
            self._last_line_at = time.monotonic()
            time_left = "" if done == self.total else self._time_left(done)
            line = "  ".join(filter(None, [f"{done}/{self.total} edits", text, self._pace(), time_left]))
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        if self._done_at_start is None:  # the time left is estimated from requests that are processed after this call
            self._done_at_start, self._started_at = done, time.monotonic()

    def journaled(self, entry: Mapping[str, Any]) -> None:
        """Show a request, given its line of the journal."""
        self._edits.append(entry)
        if is_number(entry.get("seconds")):
            self._seconds.append(float(entry["seconds"]))

    def scored(self, entry: Mapping[str, Any]) -> None:
        """Show a scoring, given its line of ``metrics.jsonl``."""
        self._scores = entry

    def view(self) -> RenderableType:
        """Return the live view: the progress bar and, if the terminal is high enough, the latest scores and edits."""
        assert self._bar is not None
        if self.finished or self.console.height < _MIN_HEIGHT:
            return self._bar
        parts: list[RenderableType] = [self._bar]
        if self._scores:
            parts.append(_score_lines(self._scores))
        if self._edits:
            parts.append(_edit_lines(list(self._edits)))
        return Group(*parts)

    def _pace(self) -> str:
        """Return the median time of the latest edits as text; empty if there are none."""
        return f"{statistics.median(self._seconds):.2f} s an edit (median)" if self._seconds else ""

    def _time_left(self, done: int) -> str:
        """Return the estimated time until the end as text; empty if it isn't known yet."""
        if self._done_at_start is None or done <= self._done_at_start:
            return ""
        seconds_per_request = (time.monotonic() - self._started_at) / (done - self._done_at_start)
        seconds = seconds_per_request * (self.total - done)
        return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"


def _score_lines(entry: Mapping[str, Any]) -> RenderableType:
    """Return a table of the main scores of a line of ``metrics.jsonl``, with their intervals."""
    intervals = intervals_of(entry)
    table = plain_table(f"scored at {counted(entry['n_edits'], 'edit')}", show_header=False, title_style="dim")
    for name in MAIN:
        if is_number(entry.get(name)) and (name != "reliability" or entry.get("ERR") != entry[name]):
            table.add_row(name, shown(entry[name], name), Text(format_interval(intervals.get(name), name), style="dim"))
    return table


def _edit_lines(entries: list[Mapping[str, Any]]) -> RenderableType:
    """Return a table of entries of the journal, one line each."""
    table = plain_table(show_header=False, expand=True)
    table.add_column(no_wrap=True, min_width=7)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=3)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column(no_wrap=True, min_width=9, justify="right")
    for entry in entries:
        success, seconds = entry.get("ES"), entry.get("seconds")
        outcome = f"ES {success:.2f}" if is_number(success) else str(entry.get("status", ""))
        style = "green" if success == 1 else "red" if entry.get("status") == "failed" else "yellow"
        table.add_row(
            Text(outcome, style=style),
            Text(_one_line(entry.get("question", entry.get("prompt")))),
            Text(f"→ {_one_line(entry.get('target_new'))}"),
            f"{seconds:.2f} s" if is_number(seconds) else "",
        )
    return table


def _one_line(text: Any) -> str:
    """Return text without newlines."""
    return " ".join(str("" if text is None else text).split())


@contextlib.contextmanager
def edit_progress(console: Console, total: int) -> Iterator[EditProgress]:
    """Show the progress of a run within a context."""
    if not console.is_terminal:
        yield EditProgress(console, total, None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[scores]}", markup=False),
    )
    progress = EditProgress(console, total, Bar(*columns, console=console, auto_refresh=False))
    with Live(get_renderable=progress.view, console=console, refresh_per_second=4):
        try:
            yield progress
        finally:
            progress.finished = True


@contextlib.contextmanager
def count_progress(console: Console, description: str) -> Iterator[Callable[[int, int], None]]:
    """Show the progress of a long computation within a context.

    Args:
        console: the console.
        description: the text beside the progress bar.

    Yields:
        A function to call with ``(done, total)``.
    """
    if console.quiet or not console.is_terminal:
        last_line_at = time.monotonic()

        def print_count(done: int, total: int) -> None:
            nonlocal last_line_at
            if done < total and time.monotonic() - last_line_at > SECONDS_BETWEEN_LINES:
                last_line_at = time.monotonic()
                console.print(f"{description}: {done}/{total}", highlight=False, markup=False)

        yield print_count
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console) as bar:
        task = bar.add_task(description, total=1, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=True)
