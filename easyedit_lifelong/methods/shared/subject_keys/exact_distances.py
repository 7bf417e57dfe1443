"""Exact distances of a few pairs of query and key, and the nearest key among them.

They are those of :func:`.pairwise_distances` for all queries and keys, in every bit.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from easyedit_lifelong.methods.shared.subject_keys.distance import normalized, pairwise_distances
from easyedit_lifelong.methods.shared.subject_keys.segmented_rows import Rows

_PAIRS_AT_ONCE = 4096
"""Pairs whose vectors are copied at once."""


class NearestKeys(NamedTuple):
    """The nearest key of each query.

    Attributes:
        distance: the distance to it, shape ``(batch,)``, float32; infinite if the query was compared with no key.
        key: its index, shape ``(batch,)``; of equally near keys, the first.
    """

    distance: Tensor
    key: Tensor


def distances_of_pairs(queries: Tensor, keys: Rows, rows: Tensor, columns: Tensor, dist_fn: str) -> Tensor:
    """Return the distances of some pairs of query and key, shape ``(pairs,)``, in float32.

    Args:
        queries: prepared queries, shape ``(batch, width)``.
        keys: all keys, not prepared, shape ``(n, width)``.
        rows: the query of each pair, shape ``(pairs,)``.
        columns: the key of each pair, shape ``(pairs,)``.
        dist_fn: ``euc`` or ``cos``.
    """
    distances = []
    for query, key in zip(rows.split(_PAIRS_AT_ONCE), columns.split(_PAIRS_AT_ONCE), strict=True):
        prepared_keys = normalized(keys[key], dist_fn)
        distances.append(pairwise_distances(queries[query].unsqueeze(1), prepared_keys.unsqueeze(1), dist_fn).flatten())
    return torch.cat(distances)


def first_nearest(distances: Tensor) -> NearestKeys:
    """Return the nearest keys, given the distances to all keys, ``(batch, n)``."""
    index = distances.argmin(dim=1)  # torch documents that argmin returns the first of equal values
    return NearestKeys(distances.gather(1, index.unsqueeze(1)).squeeze(1), index)


def nearest_of_pairs(queries: Tensor, keys: Rows, rows: Tensor, columns: Tensor, dist_fn: str) -> NearestKeys:
    """Return each query's nearest key among its candidates. Nothing here waits for a GPU.

    Args:
        queries: prepared queries, shape ``(batch, width)``.
        keys: all keys, not prepared, shape ``(n, width)`` with n > 0.
        rows: the query of each pair that is compared, shape ``(pairs,)``.
        columns: the key of each pair, shape ``(pairs,)``.
        dist_fn: ``euc`` or ``cos``.
    """
    distances = distances_of_pairs(queries, keys, rows, columns, dist_fn)
    none = distances.new_full((len(queries),), float("inf"))
    nearest = none.scatter_reduce(0, rows, distances, "amin")
    is_nearest = (distances == nearest[rows]) | distances.isnan()  # NaN counts as the smallest, as in argmin
    candidates = torch.where(is_nearest, columns, len(keys))
    last = torch.full_like(none, len(keys) - 1, dtype=torch.long)
    return NearestKeys(nearest, last.scatter_reduce(0, rows, candidates, "amin"))
