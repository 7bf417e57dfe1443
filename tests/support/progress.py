"""Progress listeners for runs: one that records, one that interrupts."""

from __future__ import annotations

from collections.abc import Mapping


class RecordingProgress:
    """Keeps the number of processed requests and the scores of every report."""

    def __init__(self) -> None:
        self.reports: list[tuple[int, dict[str, float]]] = []

    def edited(self, done: int, scores: Mapping[str, float]) -> None:
        self.reports.append((done, dict(scores)))


class InterruptAfter:
    """Interrupts a run, as Ctrl-C does, after a number of requests."""

    def __init__(self, count: int) -> None:
        self.count = count

    def edited(self, done: int, scores: Mapping[str, float]) -> None:
        if done == self.count:
            raise KeyboardInterrupt
