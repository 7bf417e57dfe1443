"""When a run scores its past edits, and how many of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from easyedit_lifelong.errors import HyperParameterError


@dataclass(frozen=True)
class Schedule:
    """When all past edits are scored again; at the end they always are.

    Scoring after every edit costs as much as all edits so far, every time. At growing distances
    (``at=(1, 10, 100, 1000)``), or with a sample, a run of N edits costs O(N) and not O(N²).

    Attributes:
        every: after so many steps: edits in the lifelong loop, batches in the consecutive one.
        at: once so many edits are made; a batch that passes a point is scored after it.
        sample: how many past edits to score, where there are more: a random sample, the same whenever as many
            edits have been made. None: all of them.
    """

    every: int | None = None
    at: tuple[int, ...] = ()
    sample: int | None = None

    @classmethod
    def of(cls, every: int | None, at: Sequence[int] = (), sample: int | None = None) -> Schedule:
        """Return a schedule whose numbers were checked.

        Args:
            every: see above.
            at: see above, in any order.
            sample: see above.

        Raises:
            HyperParameterError: a number makes no sense.
        """
        for name, values in (("eval_every", [every]), ("eval_at", at), ("eval_sample", [sample])):
            for value in values:
                if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                    raise HyperParameterError(
                        f"{name}: {value!r} is less than 1"
                        if isinstance(value, int) and not isinstance(value, bool)
                        else f"{name}: {value!r} is not a whole number"
                    )
        return cls(every, tuple(sorted(set(at))), sample)

    def with_default(self, every: int) -> Schedule:
        """Return the schedule with this ``every`` if it has neither ``every`` nor ``at``."""
        return self if self.every is not None or self.at else replace(self, every=every)

    def due(self, steps: int, edits_before: int, edits: int) -> bool:
        """Return whether to score now.

        Args:
            steps: how many steps have been taken.
            edits_before: how many edits were made before the latest.
            edits: how many are made now.
        """
        if self.every is not None and steps > 0 and steps % self.every == 0:
            return True
        return any(edits_before < point <= edits for point in self.at)

    def to_dict(self) -> dict[str, Any]:
        """Return the section ``schedule`` of an experiment file."""
        return {"every": self.every, "at": list(self.at), "sample": self.sample}
