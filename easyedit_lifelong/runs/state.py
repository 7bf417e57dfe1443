"""The state of a run, what it reports while it works, and its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.evaluation.metrics import METRICS, mean


class Progress(Protocol):
    """Receives every request that was processed, and every scoring.

    An optional method ``prepared(done, total)`` receives how much of the editing method's preparation before its
    first edit is done. Optional methods ``journaled(entry)`` and ``scored(entry)`` receive every line of the journal
    and of the scores, before :meth:`edited` is called.
    """

    def edited(self, done: int, scores: Mapping[str, float]) -> None:
        """Receive that ``done`` requests were processed; ``scores`` are the latest."""


@dataclass
class RunResult:
    """A run's outcome; with ``out`` given, the same is in its ``summary.json``.

    Attributes:
        edited_model: the model after the last edit.
        metrics: final scores by name; :data:`~easyedit_lifelong.evaluation.metrics.METRICS` says
            what each means.
        timing: seconds, by name.
        journal: the outcome of each request, in order.
        curve: the scores at every point of evaluation.
        summary: the content of ``summary.json``.
        folder: the run's folder, if there is one.
    """

    edited_model: Any
    metrics: dict[str, float]
    timing: dict[str, float]
    journal: list[dict[str, Any]]
    curve: list[dict[str, Any]]
    summary: dict[str, Any]
    folder: Path | None


@dataclass
class RunState:
    """The edits and scores of a run so far.

    An edit that failed counts in every score, with the model as it stayed: a method that fails on
    difficult requests must not score better for it.

    Attributes:
        model: the model, as edited so far.
        attempted: the requests that were not skipped, in order.
        journal: the lines of the journal.
        curve: the scores at every point of evaluation.
        success: ES of each attempted request, right after its edit.
        counts: requests by status.
        seconds: time by kind of work.
    """

    model: Any
    attempted: list[EditRequest] = field(default_factory=list)
    journal: list[dict[str, Any]] = field(default_factory=list)
    curve: list[dict[str, Any]] = field(default_factory=list)
    success: list[float] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: {"edited": 0, "failed": 0, "skipped": 0})
    seconds: dict[str, float] = field(
        default_factory=lambda: {"preparing": 0.0, "editing": 0.0, "scoring": 0.0, "io": 0.0}
    )

    def edit_success(self) -> dict[str, float]:
        """Return ES, if anything was edited."""
        success = mean(self.success)
        return {} if success is None else {"ES": success}

    def last_scores(self) -> dict[str, Any]:
        """Return the line of the last evaluation; empty if there was none."""
        return self.curve[-1] if self.curve else {}

    def latest(self) -> dict[str, float]:
        """Return the scores that a progress display shows."""
        scores = {name: score for name, score in self.last_scores().items() if name in ("ERR", "TRR", "locality")}
        return {**self.edit_success(), **scores}

    def final(self) -> dict[str, float]:
        """Return the scores of the last evaluation."""
        return {name: score for name, score in self.last_scores().items() if name in METRICS}
