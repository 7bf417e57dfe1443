"""Each key's nearest competing key in a codebook, and how nearly their radii overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.shared.subject_keys.distance import COS, normalized, pairwise_distances

_CANDIDATES = 4
"""Number of keys, the nearest by rounded distances, whose exact distances are computed."""

_PAIRS_AT_ONCE = 1 << 24
"""Pairs of key vectors whose distances are in memory at once."""


@dataclass(frozen=True)
class Neighbour:
    """The key that comes nearest to another key, in relation to their radii.

    Attributes:
        key: the key's index.
        distance: the distance between the two keys, in units of the distance function.
        nearness: the distance divided by the sum of both radii. The radii overlap at 1 and below.
    """

    key: int
    distance: float
    nearness: float


def neighbours_of(codebook: Codebook, owners: Sequence[int] | None = None) -> list[Neighbour | None]:
    """Return each key's neighbour, the competing key with the smallest nearness; None if no key competes.

    The distance between two keys is that of their nearest key vectors. Keys whose gates are more than ``gate_eps``
    apart do not compete.

    Distances of all pairs come from a matrix product, which is inaccurate for nearly equal keys. For the few nearest
    candidates of each key, they are computed again as in a lookup.

    Args:
        codebook: the codebook.
        owners: a number for each key. Keys with the same number, as those of one edit, do not compete.
    """
    count, vectors_per_key = len(codebook), codebook.vectors_per_key
    if count < 2:
        return [None] * count
    vectors, radii = normalized(codebook.key_vectors, codebook.dist_fn), codebook.radii
    squares = vectors.square().sum(dim=1)
    gates, gate_eps = codebook.prepared_gates(codebook.gates), codebook.gate_eps
    owner_of = torch.tensor(range(count) if owners is None else owners, device=vectors.device)
    neighbours: list[Neighbour | None] = []
    block_size = max(1, _PAIRS_AT_ONCE // (count * vectors_per_key * vectors_per_key))
    for start in range(0, count, block_size):
        keys = torch.arange(start, min(start + block_size, count), device=vectors.device)
        vectors_of_keys = slice(start * vectors_per_key, (start + len(keys)) * vectors_per_key)
        products = vectors[vectors_of_keys] @ vectors.t()
        if codebook.dist_fn == COS:
            vector_distances = 1 - products
        else:
            vector_distances = (squares[vectors_of_keys].unsqueeze(1) + squares - 2 * products).clamp_min(0).sqrt()
        distances = vector_distances.view(len(keys), vectors_per_key, count, vectors_per_key).amin(dim=(1, 3))
        nearness = distances / _sum_of_radii(radii[keys].unsqueeze(1), radii)
        excluded = owner_of == owner_of[keys].unsqueeze(1)  # the key itself, too
        if gate_eps is not None:
            excluded |= 1 - gates[keys] @ gates.t() > gate_eps
        nearness = nearness.masked_fill(excluded, float("inf"))
        candidates = nearness.topk(min(_CANDIDATES, count - 1), dim=1, largest=False).indices
        neighbours += _exact_neighbours(codebook, vectors, keys, candidates, excluded.gather(1, candidates))
    return neighbours


def _exact_neighbours(
    codebook: Codebook, vectors: Tensor, keys: Tensor, candidates: Tensor, excluded: Tensor
) -> list[Neighbour | None]:
    """Return the nearest candidate of each key by exact distances; None if all its candidates are excluded.

    Args:
        codebook: the codebook.
        vectors: its prepared key vectors, shape ``(n * vectors_per_key, key_size)``.
        keys: indices of the keys to return neighbours for.
        candidates: indices of each key's candidates, shape ``(len(keys), candidates)``.
        excluded: which candidates do not count, same shape.
    """
    by_key = vectors.view(len(codebook), codebook.vectors_per_key, -1)
    distances = pairwise_distances(by_key[keys], by_key[candidates].flatten(1, 2), codebook.dist_fn).amin(dim=1)
    distances = distances.view(*candidates.shape, codebook.vectors_per_key).amin(dim=2)
    nearness = distances / _sum_of_radii(codebook.radii[keys].unsqueeze(1), codebook.radii[candidates])
    nearness = nearness.masked_fill(excluded, float("inf"))
    best = nearness.min(dim=1, keepdim=True).indices
    columns = (tensor.gather(1, best).flatten().tolist() for tensor in (candidates, distances, nearness, excluded))
    return [
        None if is_excluded else Neighbour(key, distance, value)
        for key, distance, value, is_excluded in zip(*columns, strict=True)
    ]


def _sum_of_radii(radii: Tensor, other_radii: Tensor) -> Tensor:
    """Return the sums of radii, greater than 0 so that they can be divided by."""
    return (radii + other_radii).clamp_min(torch.finfo(torch.float32).tiny)
