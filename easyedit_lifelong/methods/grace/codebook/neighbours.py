"""Each key's nearest competing key in a codebook, and how nearly their radii overlap."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.distance import COS, normalized, pairwise_distances

_CANDIDATES = 4
"""Nearest keys by rounded distances, of which the exact distances are computed."""

_PAIRS_AT_ONCE = 1 << 24
"""Pairs of key vectors whose distances are in memory at once."""


@dataclass(frozen=True)
class Neighbour:
    """The key whose radius comes nearest to the radius of another key.

    Attributes:
        key: the key's index.
        distance: the distance between the two keys, in units of the distance function.
        nearness: the distance divided by the sum of both radii. The radii overlap at 1 and below.
    """

    key: int
    distance: float
    nearness: float


def neighbours_of(codebook: Codebook) -> list[Neighbour | None]:
    """Return each key's neighbour, the competing key with the smallest nearness; None if no key competes.

    The distance between two keys is that of their nearest key vectors. Keys whose gates are more than ``gate_eps``
    apart do not compete.

    Distances of all pairs come from a matrix product, which is inaccurate for nearly equal keys. For the few nearest
    candidates of each key, they are computed again as in a lookup.
    """
    count, views = len(codebook), codebook.views
    if count < 2:
        return [None] * count
    keys, radii = normalized(codebook.key_vectors, codebook.dist_fn), codebook.radii
    squares = keys.square().sum(dim=1)
    gates = normalized(codebook.gates, COS)
    neighbours: list[Neighbour | None] = []
    step = max(1, _PAIRS_AT_ONCE // (count * views * views))
    for start in range(0, count, step):
        rows = torch.arange(start, min(start + step, count), device=keys.device)
        vectors = slice(start * views, (start + len(rows)) * views)
        products = keys[vectors] @ keys.t()
        if codebook.dist_fn == COS:
            distances = 1 - products
        else:
            distances = (squares[vectors].unsqueeze(1) + squares - 2 * products).clamp_min(0).sqrt()
        distances = distances.view(len(rows), views, count, views).amin(dim=(1, 3))
        nearness = distances / _sum_of_radii(radii[rows].unsqueeze(1), radii)
        excluded = torch.arange(count, device=keys.device) == rows.unsqueeze(1)  # the key itself
        if codebook.gate_eps is not None:
            excluded |= 1 - gates[rows] @ gates.t() > codebook.gate_eps
        nearest = nearness.masked_fill(excluded, float("inf")).topk(min(_CANDIDATES, count - 1), dim=1, largest=False)
        neighbours += _exact_neighbours(codebook, keys, rows, nearest.indices, excluded.gather(1, nearest.indices))
    return neighbours


def _exact_neighbours(
    codebook: Codebook, keys: Tensor, rows: Tensor, candidates: Tensor, excluded: Tensor
) -> list[Neighbour | None]:
    """Return the nearest candidate of each key by exact distances; None if all its candidates are excluded.

    Args:
        codebook: the codebook.
        keys: its prepared key vectors, shape ``(n * views, key_size)``.
        rows: indices of the keys to return neighbours for.
        candidates: indices of each key's candidates, shape ``(len(rows), candidates)``.
        excluded: which candidates do not count, same shape.
    """
    by_key = keys.view(len(codebook), codebook.views, -1)
    distances = pairwise_distances(by_key[rows], by_key[candidates].flatten(1, 2), codebook.dist_fn).amin(dim=1)
    distances = distances.view(*candidates.shape, codebook.views).amin(dim=2)
    nearness = distances / _sum_of_radii(codebook.radii[rows].unsqueeze(1), codebook.radii[candidates])
    nearness, best = nearness.masked_fill(excluded, float("inf")).min(dim=1)
    best = best.unsqueeze(1)
    return [
        None if no_rival else Neighbour(key, distance, value)
        for no_rival, key, distance, value in zip(
            excluded.gather(1, best).flatten().tolist(),
            candidates.gather(1, best).flatten().tolist(),
            distances.gather(1, best).flatten().tolist(),
            nearness.tolist(),
            strict=True,
        )
    ]


def _sum_of_radii(radii: Tensor, other_radii: Tensor) -> Tensor:
    """Return the sums of radii, greater than 0 so that they can be divided by."""
    return (radii + other_radii).clamp_min(torch.finfo(torch.float32).tiny)
