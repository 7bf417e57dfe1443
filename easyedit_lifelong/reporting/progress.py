"""Progress of a long run: a bar where somebody watches, a line now and then where nobody does."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

_SECONDS_BETWEEN_LINES = 30


class EditProgress:
    """Shows how many requests are done and the running scores.

    Args:
        console: where to show it.
        total: number of requests.
        bar: the bar to move, if somebody watches.
    """

    def __init__(self, console: Console, total: int, bar: Bar | None) -> None:
        self.console, self.total, self._bar = console, total, bar
        self._task = bar.add_task("editing", total=total, scores="") if bar else None
        self._preparing = bar.add_task("preparing", total=1, scores="", visible=False) if bar else None
        self._said = time.monotonic()

    def prepared(self, done: int, total: int) -> None:
        """Show how far the method has come with what it computes before the first edit."""
        if self._bar is not None and self._preparing is not None:
            self._bar.update(self._preparing, completed=done, total=total, visible=done < total)
        elif done < total and time.monotonic() - self._said > _SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            self.console.print(f"preparing: {done}/{total} tokens", highlight=False)

    def edited(self, done: int, scores: Mapping[str, float]) -> None:
        """Show that ``done`` requests have been dealt with."""
        text = "  ".join(f"{name} {score:.3f}" for name, score in scores.items())
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, scores=text)
        elif done == self.total or time.monotonic() - self._said > _SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            self.console.print(f"{done}/{self.total} edits  {text}", highlight=False)


@contextlib.contextmanager
def edit_progress(console: Console, total: int) -> Iterator[EditProgress]:
    """Show a run's progress while it goes on inside."""
    if not console.is_terminal:
        yield EditProgress(console, total, None)
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(), TextColumn("{task.fields[scores]}"),
    )  # fmt: skip
    with Bar(*columns, console=console) as bar:
        yield EditProgress(console, total, bar)


@contextlib.contextmanager
def count_progress(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """Show the progress of one long count, and yield what is told ``(done, total)``."""
    if console.quiet or not console.is_terminal:
        said = [time.monotonic()]

        def line(done: int, total: int) -> None:
            if done < total and time.monotonic() - said[0] > _SECONDS_BETWEEN_LINES:
                said[0] = time.monotonic()
                console.print(f"{done}/{total}", highlight=False)

        yield line
        return
    columns = (
        TextColumn(what), BarColumn(), TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Bar(*columns, console=console) as bar:
        task = bar.add_task("", total=1, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=True)
