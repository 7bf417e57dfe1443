"""How far a query is from a key (arXiv 2211.11031, section 3): Euclidean distance, or 1 - cosine similarity.

Both are taken from direct differences, not through ``|a|^2 - 2ab + |b|^2``: that loses all digits just where it
matters, at a query that is its own key. And so a distance is the same, bit by bit, whatever other queries and keys
are asked for at once, which lets a search look at a few keys and decide as if it had looked at all.
"""

from __future__ import annotations

import torch
from torch import Tensor

EUC, COS = "euc", "cos"

_NO_DIRECTION = 1e-12
"""A vector shorter than this has no direction: its cosine distance to anything is 1."""

_UNDERFLOW = 1e-15
"""More than a distance can lose where squares are too small for float32."""


def lengths(vectors: Tensor) -> Tensor:
    """Return Euclidean norms over the last dimension, in float64 so that they don't depend on the order of sums."""
    widest = torch.float32 if vectors.device.type == "mps" else torch.float64  # which Apple's GPUs lack
    return torch.linalg.vector_norm(vectors, dim=-1, dtype=widest)


def prepared(vectors: Tensor, dist_fn: str) -> Tensor:
    """Return what is compared: the vectors in float32; for ``cos`` at unit length, zero without a direction.

    Args:
        vectors: shape ``(n, width)``, any dtype.
        dist_fn: ``euc`` or ``cos``.
    """
    vectors = vectors.float()
    if dist_fn == EUC:
        return vectors
    norms = lengths(vectors).float().unsqueeze(-1)
    return torch.where(norms < _NO_DIRECTION, 0.0, vectors / norms.clamp_min(_NO_DIRECTION))


def between(queries: Tensor, keys: Tensor, dist_fn: str) -> Tensor:
    """Return the distance of every prepared query to every prepared key, ``(..., queries, keys)``, in float32."""
    distance = torch.cdist(queries, keys, compute_mode="donot_use_mm_for_euclid_dist")
    if dist_fn == EUC:
        return distance
    # Of unit vectors, 1 - cos = |a - b|^2 / 2.
    aimless = (queries == 0).all(dim=-1).unsqueeze(-1) | (keys == 0).all(dim=-1).unsqueeze(-2)
    return torch.where(aimless, 1.0, distance.square() / 2)


def by_product(queries: Tensor, keys: Tensor, dist_fn: str) -> Tensor:
    """Return what :func:`between` does but for the last digits, faster: for studies and radii, not for decisions.

    Args:
        queries: prepared, shape ``(queries, width)``.
        keys: prepared, shape ``(keys, width)``.
        dist_fn: ``euc`` or ``cos``.
    """
    return (1 - queries @ keys.t()).clamp_min(0) if dist_fn == COS else torch.cdist(queries, keys)


def farthest_squared(distance: Tensor, width: int, dist_fn: str) -> Tensor:
    """Return how far apart, at most and squared, prepared vectors are whose distance comes out as this or less.

    In exact arithmetic, for what :func:`between` computes in float32: each of ``width`` squares and their sum round.

    Args:
        distance: in units of the distance function, any shape.
        width: of the vectors.
        dist_fn: ``euc`` or ``cos``.

    Returns:
        Squared Euclidean distances, float64.
    """
    distance = distance.double()
    # Twice the worst case of a sum in any order: (width + 3) roundings of 2^-24 in the square, then those of the root.
    root = (distance if dist_fn == EUC else (2 * distance).sqrt()) * (1 + (width + 8) * 2.0**-23)
    return (root + _UNDERFLOW).square()
