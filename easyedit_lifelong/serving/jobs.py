"""What waits in the queue of a served model: requests for answers, and functions that run alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from easyedit_lifelong.serving.generation import Row


@dataclass(eq=False)
class GenerationJob:
    """A request for answers, all of one version.

    Attributes:
        rows: its answers.
        version: the version that was asked for; None for the one that is present when generation begins, which takes
            its place then.
        started: receives the version when generation begins.
        finished: is done when all rows are finished.
    """

    rows: Sequence[Row]
    version: int | None = None
    started: Future[int] = field(default_factory=Future)
    finished: Future[None] = field(default_factory=Future)

    def __post_init__(self) -> None:
        """Mark the futures as running: those who wait for them can't cancel them."""
        self.started.set_running_or_notify_cancel()
        self.finished.set_running_or_notify_cancel()

    def cancel(self) -> None:
        """End the answers as soon as possible."""
        for row in self.rows:
            row.cancelled = True

    @property
    def cancelled(self) -> bool:
        """Whether all answers were cancelled."""
        return all(row.cancelled for row in self.rows)

    def fail(self, error: BaseException) -> None:
        """Pass an error on to those who wait for the answers."""
        for future in (self.started, self.finished):
            if not future.done():
                future.set_exception(error)


@dataclass(eq=False)
class Task:
    """A function that runs alone on the worker thread.

    Attributes:
        function: the function.
        changes: whether it may change the edits.
        result: receives what it returns.
    """

    function: Callable[[], Any]
    changes: bool = True
    result: Future[Any] = field(default_factory=Future)

    def run(self) -> None:
        """Run the function, unless it was cancelled while it waited."""
        if not self.result.set_running_or_notify_cancel():
            return
        try:
            self.result.set_result(self.function())
        except BaseException as error:
            self.result.set_exception(error)
