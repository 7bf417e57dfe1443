"""The state of a run, the protocol of progress displays, and the result of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.evaluation.metrics import METRICS, mean


class Progress(Protocol):
    """Receives what a run reports while it works; a progress display implements it.

    Four methods are optional. ``prepared(done, total)`` receives how much of the editing method's preparation is
    done, and ``scoring(done, total)`` how many answers of a scoring are computed. ``journaled(entry)`` and
    ``scored(entry)`` receive every new line of the journal and of ``metrics.jsonl``; they are called before
    :meth:`edited`.
    """

    def edited(self, done: int, scores: Mapping[str, float]) -> None:
        """Receive the number of processed requests and the latest scores."""


@dataclass
class RunResult:
    """The result of a run.

    Attributes:
        edited_model: the model after the last edit.
        metrics: final scores by name; :data:`~easyedit_lifelong.evaluation.metrics.METRICS` says
            what each means.
        timing: seconds, by name.
        journal: the outcome of each request, in order: the lines of ``journal.jsonl``.
        curve: the scores of each scoring, in order: the lines of ``metrics.jsonl``.
        summary: the content of ``summary.json``.
        folder: the run's folder; None if nothing was written.
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

    A failed edit counts in every score, with the answers of the model without it: a method must not score better
    because it fails on difficult requests.

    Attributes:
        model: the model, as edited so far.
        attempted: the requests that were not skipped, in order; of edits that are scored again with the questions of
            other data, the requests of those data.
        journal: the lines of the journal.
        curve: the scores of each scoring, in order.
        success: ES of each attempted request, right after its edit.
        counts: the number of requests by status.
        seconds: the time by kind of work.
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

    @property
    def n_attempted(self) -> int:
        """Number of edits that were made or failed."""
        return self.counts["edited"] + self.counts["failed"]

    def record(self, entry: dict[str, Any]) -> None:
        """Add a line of the journal. The caller adds the line's request to ``attempted``."""
        self.journal.append(entry)
        self.counts[entry["status"]] += 1
        if entry["status"] != "skipped":
            self.success.append(entry["ES"])
        for kind, name in (("editing", "seconds"), ("scoring", "seconds_scoring")):
            self.seconds[kind] += entry.get(name, 0.0)

    def edit_success(self) -> dict[str, float]:
        """Return the mean ES, or nothing if no edit was attempted."""
        success = mean(self.success)
        return {} if success is None else {"ES": success}

    def last_scores(self) -> dict[str, Any]:
        """Return the line of the last scoring; empty if there was none."""
        return self.curve[-1] if self.curve else {}

    def latest(self) -> dict[str, float]:
        """Return the scores that a progress display shows."""
        scores = {name: score for name, score in self.last_scores().items() if name in ("ERR", "TRR", "locality")}
        return {**self.edit_success(), **scores}

    def final(self) -> dict[str, float]:
        """Return the scores of the last scoring, without the other entries of its line."""
        return {name: score for name, score in self.last_scores().items() if name in METRICS}


def run_result(state: RunState, summary: dict[str, Any], folder: Path | None) -> RunResult:
    """Return the result of a run.

    Args:
        state: the edits and scores of the run.
        summary: the content of ``summary.json``.
        folder: the run's folder; None if nothing was written.
    """
    return RunResult(state.model, summary["metrics"], summary["timing"], state.journal, state.curve, summary, folder)
