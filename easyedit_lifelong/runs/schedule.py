"""The schedule that says when a run scores its past edits, and how many of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from easyedit_lifelong.errors import HyperParameterError


@dataclass(frozen=True)
class Schedule:
    """When past edits are scored. They are always scored at the end of a run, too.

    One scoring costs time in proportion to the number of edits so far. A run of N edits that scores after every edit
    costs O(N²); with growing intervals (``at=(1, 10, 100, 1000)``) it costs O(N), and so it does with a sample.

    Attributes:
        every: score each time after this many steps: edits in the lifelong loop, batches in the consecutive loop.
        at: score after these numbers of edits; if a batch passes such a number, after the batch.
        sample: score a random sample of this many past edits if there are more. The sample depends on the number of
            edits and the seed only. None: score all of them.
    """

    every: int | None = None
    at: tuple[int, ...] = ()
    sample: int | None = None

    @classmethod
    def of(cls, every: int | None, at: Sequence[int] = (), sample: int | None = None) -> Schedule:
        """Return a schedule, after a check of its numbers.

        Args:
            every: see :class:`Schedule`.
            at: see :class:`Schedule`; in any order.
            sample: see :class:`Schedule`.

        Raises:
            HyperParameterError: a number is not a whole number, or less than 1.
        """
        for name, values in (("eval_every", [every]), ("eval_at", at), ("eval_sample", [sample])):
            for value in values:
                if value is None:
                    continue
                if isinstance(value, bool) or not isinstance(value, int):
                    raise HyperParameterError(f"{name}: {value!r} is not a whole number")
                if value < 1:
                    raise HyperParameterError(f"{name}: {value!r} is less than 1")
        return cls(every, tuple(sorted(set(at))), sample)

    def with_default(self, every: int) -> Schedule:
        """Return the schedule with this ``every`` if it has neither ``every`` nor ``at``."""
        return self if self.every is not None or self.at else replace(self, every=every)

    def due(self, steps: int, edits_before: int, edits: int) -> bool:
        """Return whether a scoring is due after the latest step.

        Args:
            steps: the number of steps so far.
            edits_before: the number of edits before the latest step.
            edits: the number of edits so far.
        """
        if self.every is not None and steps > 0 and steps % self.every == 0:
            return True
        return any(edits_before < point <= edits for point in self.at)

    def beyond(self, edits: int) -> list[int]:
        """Return the numbers of edits in ``at`` that a run of this many edits does not reach."""
        return [point for point in self.at if point > edits]

    def to_dict(self) -> dict[str, Any]:
        """Return the section ``schedule`` of an experiment file."""
        return {"every": self.every, "at": list(self.at), "sample": self.sample}
