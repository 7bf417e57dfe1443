"""What is known about partial passes of a model. It is saved with the edits, so that a resumed run knows it, too."""

from __future__ import annotations

from typing import NamedTuple


class ReplaySupport(NamedTuple):
    """Whether partial passes give the same logits as full passes on a model.

    Attributes:
        supported: whether they do; None if this has not been checked.
        checked_length: the length in tokens up to which it has been checked.
    """

    supported: bool | None = None
    checked_length: int = 0

    def merged_with(self, other: ReplaySupport) -> ReplaySupport:
        """Return what two runs know together; unknown if they contradict, so that the next edit checks again."""
        if self.supported != other.supported:
            return ReplaySupport()
        return ReplaySupport(self.supported, max(self.checked_length, other.checked_length))
