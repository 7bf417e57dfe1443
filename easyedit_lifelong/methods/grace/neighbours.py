"""How near the keys of a codebook are to colliding with each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from easyedit_lifelong.methods.grace.codebook import Codebook
from easyedit_lifelong.methods.grace.distance import between, prepared

_CANDIDATES = 4
_PAIRS_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class Neighbour:
    """The key whose radius comes nearest to another's.

    Attributes:
        key: its index.
        distance: between the two keys, in units of the distance function.
        nearness: the distance over the sum of both radii: at 1 and below they overlap.
    """

    key: int
    distance: float
    nearness: float


def neighbours_of(codebook: Codebook) -> list[Neighbour | None]:
    """Return every key's neighbour: the other key of the smallest nearness; None where there is no other.

    All pairs go through a matrix product, which loses digits where keys are alike; the few best of each key are
    measured again as a lookup would.
    """
    count = len(codebook)
    if count < 2:
        return [None] * count
    keys, radii = prepared(codebook.keys, codebook.dist_fn), codebook.radii
    squares = keys.square().sum(dim=1)
    found: list[Neighbour | None] = []
    step = max(1, _PAIRS_AT_ONCE // count)
    for start in range(0, count, step):
        rows = torch.arange(start, min(start + step, count), device=keys.device)
        products = keys[rows] @ keys.t()
        if codebook.dist_fn == "cos":
            distances = 1 - products
        else:
            distances = (squares[rows].unsqueeze(1) + squares - 2 * products).clamp_min(0).sqrt()
        nearness = distances / _reach(radii[rows].unsqueeze(1), radii)
        nearness[torch.arange(len(rows)), rows] = float("inf")
        candidates = nearness.topk(min(_CANDIDATES, count - 1), dim=1, largest=False).indices
        found += _measured(codebook, rows, candidates)
    return found


def _measured(codebook: Codebook, rows: Tensor, candidates: Tensor) -> list[Neighbour | None]:
    """Return the best of each row's candidates, by distances that keep their digits."""
    keys = prepared(codebook.keys, codebook.dist_fn)
    distances = between(keys[rows].unsqueeze(1), keys[candidates], codebook.dist_fn).squeeze(1)
    nearness, best = (distances / _reach(codebook.radii[rows].unsqueeze(1), codebook.radii[candidates])).min(dim=1)
    best = best.unsqueeze(1)
    return [
        Neighbour(key, distance, near)
        for key, distance, near in zip(
            candidates.gather(1, best).flatten().tolist(), distances.gather(1, best).flatten().tolist(),
            nearness.tolist(), strict=True,
        )
    ]  # fmt: skip


def _reach(one: Tensor, other: Tensor) -> Tensor:
    return (one + other).clamp_min(torch.finfo(torch.float32).tiny)
