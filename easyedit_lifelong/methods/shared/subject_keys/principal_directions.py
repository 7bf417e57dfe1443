"""The directions in which vectors vary most."""

from __future__ import annotations

import torch
from torch import Tensor

_ITERATIONS = 3
"""Subspace iterations that find the directions. With more iterations, the bounds hardly rule out more keys."""


def principal_directions(sample: Tensor, count: int) -> Tensor:
    """Return orthonormal directions in which vectors vary nearly most, ``(width, directions)``, float64."""
    # Subspace iteration, which cannot fail to converge as an eigendecomposition can.
    vectors = sample.double().cpu()
    centred = vectors - vectors.mean(dim=0)
    width = centred.shape[1]
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(width, min(count, width), generator=generator, dtype=torch.float64)
    for _ in range(_ITERATIONS):
        basis = torch.linalg.qr(centred.t() @ (centred @ basis)).Q
    return basis
