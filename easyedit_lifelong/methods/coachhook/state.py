"""The batches of a model's CoachHook edits: enough to continue, to roll back and to store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from easyedit_lifelong.methods.locate_edit.history import Batch, BatchHistory


@dataclass(frozen=True)
class BatchUpdate(Batch):
    """One batch of edits.

    Attributes:
        alphas: each layer's α after the batch.
        ordinary: the root mean square of each layer's ‖ΔW k‖ over ordinary text, where scores are weighed by it.
        prompts: the tokens of its requests' bare prompts, in order.
    """

    alphas: dict[str, float]
    ordinary: dict[str, float]
    prompts: Sequence[Sequence[int]]


@dataclass
class CoachHookState(BatchHistory[BatchUpdate]):
    """All batches since the unedited model.

    Attributes:
        alpha_z: α before the first batch.
    """

    alpha_z: float = field(kw_only=True)

    @property
    def alphas(self) -> dict[str, float]:
        """Each layer's α now."""
        return dict(self.batches[-1].alphas) if self.batches else dict.fromkeys(self.paths, self.alpha_z)

    @property
    def ordinary(self) -> dict[str, float]:
        """The root mean square of each layer's ‖ΔW k‖ over ordinary text now, where it counts."""
        return dict(self.batches[-1].ordinary) if self.batches else {}

    def delta(self, path: str, count: int | None = None) -> Tensor | None:
        """Return a layer's ΔW, the sum of its updates (or of the first ``count``) in order; None before the first."""
        total: Tensor | None = None
        for batch in self.batches[:count]:
            total = batch.layers[path].added_to(total)
        return total
