"""Distances between queries and keys (arXiv 2211.11031, section 3): Euclidean, or 1 - cosine similarity.

Distances are computed from differences, not as ``|a|² - 2ab + |b|²``, which loses all digits for a query that equals
its key. A distance does not depend, in any bit, on the other queries and keys of the same call. So a search that
compares few keys decides as a comparison with all keys would.

Most functions expect *prepared* vectors, as :func:`normalized` returns them.
"""

from __future__ import annotations

import torch
from torch import Tensor

EUC, COS = "euc", "cos"

_MIN_NORM = 1e-12
"""A vector shorter than this has no direction. Its cosine distance to any vector is defined as 1."""

_UNDERFLOW = 1e-15
"""Upper bound on the error of a distance that is so small that its square underflows in float32."""


def vector_norms(vectors: Tensor) -> Tensor:
    """Return Euclidean norms over the last dimension, in float64 so that the order of summation does not matter."""
    widest = torch.float32 if vectors.device.type == "mps" else torch.float64  # MPS has no float64
    return torch.linalg.vector_norm(vectors, dim=-1, dtype=widest)


def normalized(vectors: Tensor, dist_fn: str) -> Tensor:
    """Return prepared vectors: in float32 and, for ``cos``, of unit length (zero if they have no direction).

    Args:
        vectors: shape ``(n, width)``, any dtype.
        dist_fn: ``euc`` or ``cos``.
    """
    vectors = vectors.float()
    if dist_fn == EUC:
        return vectors
    norms = vector_norms(vectors).float().unsqueeze(-1)
    return torch.where(norms < _MIN_NORM, 0.0, vectors / norms.clamp_min(_MIN_NORM))


def has_direction(vectors: Tensor, dist_fn: str) -> bool:
    """Return whether all vectors have a distance that depends on the other vector: for ``cos``, none may be zero.

    Args:
        vectors: shape ``(n, width)``, any dtype.
        dist_fn: ``euc`` or ``cos``.
    """
    return dist_fn == EUC or not bool((vector_norms(vectors) < _MIN_NORM).any())


def pairwise_distances(queries: Tensor, keys: Tensor, dist_fn: str) -> Tensor:
    """Return the distance of every prepared query to every prepared key, ``(..., queries, keys)``, in float32."""
    euclidean = torch.cdist(queries, keys, compute_mode="donot_use_mm_for_euclid_dist")
    if dist_fn == EUC:
        return euclidean
    # For unit vectors, 1 - cos = |a - b|² / 2.
    no_direction = (queries == 0).all(dim=-1).unsqueeze(-1) | (keys == 0).all(dim=-1).unsqueeze(-2)
    return torch.where(no_direction, 1.0, euclidean.square() / 2)


def rounded_pairwise_distances(queries: Tensor, keys: Tensor, dist_fn: str) -> Tensor:
    """Return the distances of :func:`pairwise_distances` from a matrix product: faster, but rounded; not for decisions.

    Args:
        queries: prepared, shape ``(queries, width)``.
        keys: prepared, shape ``(keys, width)``.
        dist_fn: ``euc`` or ``cos``.

    Returns:
        Shape ``(queries, keys)``.
    """
    return (1 - queries @ keys.t()).clamp_min(0) if dist_fn == COS else torch.cdist(queries, keys)


def rounding_of(dtype: torch.dtype) -> float:
    """Return how much rounding changes an activation in another batch or padding, relative to the activation's norm."""
    return 4e-6 if dtype in (torch.float32, torch.float64) else torch.finfo(dtype).eps / 4


def max_squared_distance(distance: Tensor, width: int, dist_fn: str) -> Tensor:
    """Return an upper bound on the exact squared distance of vectors, given their distance as it was computed.

    The bound allows for the rounding of ``width`` squares and of their sum in float32.

    Args:
        distance: distances that :func:`pairwise_distances` returned, any shape.
        width: width of the vectors.
        dist_fn: ``euc`` or ``cos``.

    Returns:
        Squared Euclidean distances between prepared vectors, float64, in the same shape.
    """
    distance = distance.double()
    euclidean = distance if dist_fn == EUC else (2 * distance).sqrt()
    # Twice the worst case of a sum in any order: (width + 3) roundings of 2^-24 in the square, then those of the root.
    rounding = (width + 8) * 2.0**-23
    return (euclidean * (1 + rounding) + _UNDERFLOW).square()
