"""The update of one layer by one batch, as the change of every weight."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from easyedit_lifelong.methods.weight_updates.history import Batch


@dataclass(frozen=True)
class DenseUpdate:
    """The update of one layer as a full matrix. It needs as much memory as the weight, in float32 or wider.

    Attributes:
        delta: Δ, shape ``(outputs, inputs)``.
    """

    delta: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """The number of inputs and of outputs of the layer."""
        return self.delta.shape[1], self.delta.shape[0]

    def added_to(self, delta: Tensor | None) -> Tensor:
        """Return ΔW + Δ in the dtype of Δ, where ΔW, shape ``(outputs, inputs)``, is the sum of earlier updates."""
        return self.delta if delta is None else delta.to(self.delta) + self.delta


@dataclass(frozen=True)
class DenseBatch(Batch):
    """The edits that one batch made, with a :class:`DenseUpdate` of each layer."""

    update_class = DenseUpdate
