"""What a run reports while it works."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol


class Progress(Protocol):
    """Receives every request that was processed, and every scoring.

    An optional method ``prepared(done, total)`` receives how much of the editing method's preparation before its
    first edit is done. Optional methods ``journaled(entry)`` and ``scored(entry)`` receive every line of the journal
    and of the scores, before :meth:`edited` is called.
    """

    def edited(self, done: int, scores: Mapping[str, float]) -> None:
        """Receive that ``done`` requests were processed; ``scores`` are the latest."""


def notify(
    progress: Progress | None,
    journal: Sequence[Mapping[str, Any]],
    curve: Sequence[Mapping[str, Any]],
    done: int,
    scores: Mapping[str, float],
) -> None:
    """Report new lines of a run's files, to the methods that a progress display has, and then the latest scores.

    Args:
        progress: the display, if there is one.
        journal: new lines of the journal.
        curve: new lines of the scores.
        done: how many requests were processed.
        scores: the latest scores.
    """
    if progress is None:
        return
    for name, entries in (("journaled", journal), ("scored", curve)):
        listener: Callable[[Mapping[str, Any]], object] = getattr(progress, name, lambda entry: None)
        for entry in entries:
            listener(entry)
    progress.edited(done, scores)
