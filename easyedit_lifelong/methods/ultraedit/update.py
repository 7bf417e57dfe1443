"""The update of one layer: inputs, normalised inputs and gradients, and the regularised least squares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from easyedit_lifelong.methods.weight_updates.history import Batch
from easyedit_lifelong.methods.weight_updates.layer_update import ProductUpdate
from easyedit_lifelong.methods.weight_updates.normaliser import Normaliser


@dataclass(frozen=True)
class UltraEditUpdate(ProductUpdate):
    """The update of one layer by a batch with n answer tokens: Xᵀ = Vᵀ ((HᵀH + I)⁻¹ Hᵀ)ᵀ.

    Attributes:
        adjusted: (HᵀH + I)⁻¹ Hᵀ, shape ``(inputs, n)``.
        residual: Vᵀ, shape ``(outputs, n)``.
        normaliser: mean and summed squared deviations after the batch, shape ``(inputs + outputs, 2)``, in float64, if
            this layer is the first of its shape; otherwise shape ``(inputs + outputs, 0)``.
    """

    normaliser: Tensor


@dataclass(frozen=True)
class UltraEditBatch(Batch):
    """The edits that one batch made."""

    update_class: ClassVar[type[Any]] = UltraEditUpdate

    layers: Mapping[str, UltraEditUpdate]


def least_squares(inputs: Tensor) -> Tensor:
    """Return (HᵀH + I)⁻¹ Hᵀ, shape ``(inputs, n)``, in the dtype of H.

    With fewer tokens than inputs, it is computed as Hᵀ (HHᵀ + I)⁻¹.

    Args:
        inputs: H, shape ``(n, inputs)``.
    """
    tokens, size = inputs.shape
    identity = torch.eye(min(tokens, size), dtype=inputs.dtype, device=inputs.device)
    if tokens < size:
        return torch.cholesky_solve(inputs, torch.linalg.cholesky(inputs @ inputs.t() + identity)).t()
    return torch.cholesky_solve(inputs.t(), torch.linalg.cholesky(inputs.t() @ inputs + identity))


def value_changes(inputs: Tensor, gradients: Tensor, normaliser: Normaliser, lr: float, epsilon: float) -> Tensor:
    """Return V with the rows v_i = -η ‖ĥ_i‖² ĝ_i (arXiv 2505.14679), shape ``(n, outputs)``.

    If the normaliser has a single vector, its standard deviation is 0. Then ĥ and ĝ are h and g, divided by their
    root mean squares: they have the norm that they have on average with more vectors.

    Args:
        inputs: H, shape ``(n, inputs)``.
        gradients: G, shape ``(n, outputs)``.
        normaliser: gives ĥ and ĝ.
        lr: η.
        epsilon: see :meth:`Normaliser.normalise`.
    """
    if normaliser.count == 1:
        normalised_inputs, normalised_gradients = (
            part / (part.square().mean().sqrt() + epsilon) for part in (inputs, gradients)
        )
    else:
        features = normaliser.normalise(torch.cat([inputs, gradients], dim=1), epsilon)
        normalised_inputs, normalised_gradients = features.split([inputs.shape[1], gradients.shape[1]], dim=1)
    return -lr * normalised_inputs.square().sum(dim=1, keepdim=True) * normalised_gradients
