"""The CoachHook batches that have edited a model: what is needed to continue, to roll back and to save."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from easyedit_lifelong.methods.weight_updates.history import Batch, BatchHistory


@dataclass(frozen=True)
class BatchUpdate(Batch):
    """The edits that one batch made, with α after it.

    The names of the fields are keys in the files of saved edits.

    Attributes:
        alphas: α of each hook layer after the batch, by path.
        ordinary: the root mean square of ‖ΔW k‖ over ordinary text in each hook layer, by path; empty if scores are not
            weighed by it.
        prompts: the token ids of the plain prompts of its requests, in order.
    """

    alphas: dict[str, float]
    ordinary: dict[str, float]
    prompts: Sequence[Sequence[int]]


@dataclass
class CoachHookState(BatchHistory[BatchUpdate]):
    """All CoachHook batches that have edited a model.

    Attributes:
        alpha_z: α before the first batch.
    """

    alpha_z: float = field(kw_only=True)

    @property
    def alphas(self) -> dict[str, float]:
        """The present α of each hook layer, by path."""
        return dict(self.batches[-1].alphas) if self.batches else dict.fromkeys(self.paths, self.alpha_z)

    @property
    def rms_changes(self) -> dict[str, float]:
        """The present root mean square of ‖ΔW k‖ over ordinary text, by path; empty if scores are not weighed by it."""
        return dict(self.batches[-1].ordinary) if self.batches else {}

    def delta(self, path: str, count: int | None = None) -> Tensor | None:
        """Return ΔW of a hook layer after the first ``count`` batches, or after all; None without batches."""
        total: Tensor | None = None
        for batch in self.batches[:count]:
            total = batch.layers[path].added_to(total)
        return total
