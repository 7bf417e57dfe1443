"""The update of one layer by one batch, as a product of two factors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class WeightUpdate(Protocol):
    """The update of one layer by one batch. Implementations are dataclasses whose fields are tensors to save."""

    @property
    def shape(self) -> tuple[int, int]:
        """The number of inputs and of outputs of the layer."""

    def added_to(self, delta: Tensor | None) -> Tensor:
        """Return ΔW + Δ, where ΔW, shape ``(outputs, inputs)``, is the sum of earlier updates; None: there are none."""


class FactoredUpdate:
    """The update of one layer as a product of two factors with n columns: Δ = R Aᵀ. Subclasses are dataclasses.

    Attributes:
        adjusted: A, shape ``(inputs, n)``.
        residual: R, shape ``(outputs, n)``.
    """

    adjusted: Tensor
    residual: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """The number of inputs and of outputs of the layer."""
        return len(self.adjusted), len(self.residual)

    def matrix(self) -> Tensor:
        """Return Δ, shape ``(outputs, inputs)``, in the dtype of the factors; differentiable in them."""
        return self.residual @ self.adjusted.t()

    def added_to(self, delta: Tensor | None) -> Tensor:
        """Return ΔW + Δ in the dtype of the factors, computed in float64; see :class:`WeightUpdate`."""
        update = self.residual.double() @ self.adjusted.double().t()
        total = update if delta is None else delta.to(update.device).double() + update
        return total.to(self.adjusted.dtype)


@dataclass(frozen=True)
class ProductUpdate(FactoredUpdate):
    """The update of one layer as a product of two factors with n columns: Δ = R Aᵀ.

    Attributes:
        adjusted: A, shape ``(inputs, n)``.
        residual: R, shape ``(outputs, n)``.
    """

    adjusted: Tensor
    residual: Tensor

    def stored(self) -> ProductUpdate:
        """Return the update in main memory, in the form in which it is saved."""
        return ProductUpdate(self.adjusted.cpu().contiguous(), self.residual.cpu().contiguous())


@dataclass(frozen=True)
class LayerUpdate(FactoredUpdate):
    """The update of one layer by a batch of n edits: Δ = R (M⁻¹ K)ᵀ. All tensors have the same dtype.

    Attributes:
        keys: K, shape ``(inputs, n)``.
        adjusted: M⁻¹ K, shape ``(inputs, n)``. M is the matrix that the solver inverts, such as λ E[kkᵀ] + KKᵀ.
        residual: the residual R of this layer, shape ``(outputs, n)``.
    """

    keys: Tensor
    adjusted: Tensor
    residual: Tensor
