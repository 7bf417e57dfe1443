"""How near the keys of a codebook are to colliding with each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.distance import COS, between, prepared

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

    Keys of several views are as near as their nearest two. Edits whose gates are too far apart to compete are none of
    each other's neighbours.

    All pairs go through a matrix product, which loses digits where keys are alike; the few best of each key are
    measured again as a lookup would.
    """
    count, views = len(codebook), codebook.views
    if count < 2:
        return [None] * count
    keys, radii = prepared(codebook.key_views, codebook.dist_fn), codebook.radii
    squares = keys.square().sum(dim=1)
    gates = prepared(codebook.gates, COS)
    found: list[Neighbour | None] = []
    step = max(1, _PAIRS_AT_ONCE // (count * views * views))
    for start in range(0, count, step):
        rows = torch.arange(start, min(start + step, count), device=keys.device)
        own = slice(start * views, (start + len(rows)) * views)
        products = keys[own] @ keys.t()
        if codebook.dist_fn == COS:
            distances = 1 - products
        else:
            distances = (squares[own].unsqueeze(1) + squares - 2 * products).clamp_min(0).sqrt()
        distances = distances.view(len(rows), views, count, views).amin(dim=(1, 3))
        nearness = distances / _reach(radii[rows].unsqueeze(1), radii)
        out = torch.arange(count, device=keys.device) == rows.unsqueeze(1)  # a key itself, and no rivals
        if codebook.gate_eps is not None:
            out |= 1 - gates[rows] @ gates.t() > codebook.gate_eps
        nearest = nearness.masked_fill(out, float("inf")).topk(min(_CANDIDATES, count - 1), dim=1, largest=False)
        found += _measured(codebook, keys, rows, nearest.indices, out.gather(1, nearest.indices))
    return found


def _measured(
    codebook: Codebook, keys: Tensor, rows: Tensor, candidates: Tensor, out: Tensor
) -> list[Neighbour | None]:
    """Return the best of each row's candidates that aren't out, by distances that keep their digits."""
    by_key = keys.view(len(codebook), codebook.views, -1)
    distances = between(by_key[rows], by_key[candidates].flatten(1, 2), codebook.dist_fn).amin(dim=1)
    distances = distances.view(*candidates.shape, codebook.views).amin(dim=2)
    nearness = distances / _reach(codebook.radii[rows].unsqueeze(1), codebook.radii[candidates])
    nearness, best = nearness.masked_fill(out, float("inf")).min(dim=1)
    best = best.unsqueeze(1)
    return [
        None if none else Neighbour(key, distance, near)
        for none, key, distance, near in zip(
            out.gather(1, best).flatten().tolist(),
            candidates.gather(1, best).flatten().tolist(),
            distances.gather(1, best).flatten().tolist(),
            nearness.tolist(),
            strict=True,
        )
    ]


def _reach(one: Tensor, other: Tensor) -> Tensor:
    return (one + other).clamp_min(torch.finfo(torch.float32).tiny)
