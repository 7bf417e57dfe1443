"""Find the key nearest to a query exactly, without a full comparison with all keys.

Lower bounds on distances, which :mod:`.key_projections` computes from short vectors, rule out most keys. The remaining
candidates are compared in full, with the same arithmetic as in a comparison with all keys. So the results are
identical, ties included (the first key wins). Where a codebook has several vectors for each key, the "keys" of this
module are these vectors.

A GPU is waited for once in a search with few candidates: for their number.

If the bounds leave too many candidates, a product with the full keys rules out more of them; its allowance for rounding
holds even in bfloat16.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from easyedit_lifelong.methods.shared.subject_keys.distance import (
    EUC,
    max_squared_distance,
    normalized,
    pairwise_distances,
    vector_norms,
)
from easyedit_lifelong.methods.shared.subject_keys.exact_distances import (
    NearestKeys,
    distances_of_pairs,
    first_nearest,
    nearest_of_pairs,
)
from easyedit_lifelong.methods.shared.subject_keys.key_projections import KeyProjections
from easyedit_lifelong.methods.shared.subject_keys.segmented_rows import Rows, in_one_tensor, segments_of

BRUTE_FORCE_BELOW = 64
"""With fewer keys than this, a comparison with all of them is as fast."""

_GPU_BRUTE_FORCE = 1 << 27
"""On a GPU, a comparison with all keys computes up to so many differences of two numbers in less time than it takes to
start the kernels of the search: 8 queries and 1,000 keys of width 14,336, in 0.34 ms on an H100."""

_PAIRS_AT_ONCE = 1 << 22
"""Pairs of query and key whose bounds are in memory at once."""

_MAX_CANDIDATES, _MAX_CANDIDATES_DIVISOR = 512, 32
"""With more candidates than the first number, and than the number of all keys divided by the second, a product with all
keys rules out some candidates before the others are compared in full."""

_PRODUCT_ROUNDING = 0.05
"""More than twice the relative error of a product of two vectors, if vectors and product are rounded to bfloat16."""


class Search:
    """Finds the nearest keys of a codebook. The codebook reports every change of its keys.

    Args:
        dist_fn: ``euc`` or ``cos``.
    """

    def __init__(self, dist_fn: str) -> None:
        self._dist_fn = dist_fn
        self._projections = KeyProjections(dist_fn)

    def reset(self) -> None:
        """Drop all projections, since the keys were replaced or moved to another device."""
        self._projections.reset()

    def truncate(self, length: int) -> None:
        """Drop the projections of all keys but the first ``length``."""
        self._projections.truncate(length)

    def mark_changed(self, index: int) -> None:
        """Mark a key's projection as out of date."""
        self._projections.mark_changed(index)

    def tensors(self, keys: Rows) -> dict[str, Tensor]:
        """Return tensors that save a later search the work of reading all keys; none on a device without float64.

        Args:
            keys: all keys, shape ``(n, width)`` with n > 0.
        """
        if keys.device.type == "mps":
            return {}
        self._projections.update(keys)
        return self._projections.tensors()

    def restore(self, tensors: Mapping[str, Tensor], keys: Rows) -> None:
        """Restore the state in which :meth:`tensors` was called, with the same keys.

        Raises:
            ValueError: the tensors are not those of such keys.
        """
        self._projections.restore(tensors, *keys.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of memory in use."""
        return self._projections.nbytes

    @torch.no_grad()
    def nearest(self, queries: Tensor, keys: Rows, within: float = math.inf) -> NearestKeys:
        """Return each query's nearest key.

        Args:
            queries: shape ``(batch, width)``, any dtype.
            keys: shape ``(n, width)`` with n > 0, contiguous, in any dtype that holds them exactly.
            within: a distance beyond which no key is searched for. If the nearest key is further away, the result is
                key -1 at an infinite distance.
        """
        queries = normalized(queries, self._dist_fn)
        if _use_brute_force(queries, keys):
            distances = pairwise_distances(queries, normalized(in_one_tensor(keys), self._dist_fn), self._dist_fn)
            return _not_beyond(first_nearest(distances), within)
        self._projections.update(keys)
        if within < math.inf:
            reach = max_squared_distance(torch.tensor(within, dtype=torch.float64), keys.shape[1], self._dist_fn)
            rows, columns = self._projections.pairs_within(queries, reach.to(queries.device).expand(len(queries), 1))
            if len(rows) <= _max_candidates(keys):
                return _not_beyond(nearest_of_pairs(queries, keys, rows, columns, self._dist_fn), within)
        blocks = queries.split(max(1, _PAIRS_AT_ONCE // len(keys)))
        parts = [self._nearest(block, keys, self._projections.squared_bounds(block)) for block in blocks]
        return _not_beyond(NearestKeys(*(torch.cat(tensors) for tensors in zip(*parts, strict=True))), within)

    @torch.no_grad()
    def matching(self, queries: Tensor, keys: Rows, radii: Tensor, slack: Tensor) -> Tensor:
        """Return the nearest key of each query, -1 where the query is outside that key's radius, ``(batch,)``.

        Args:
            queries: shape ``(batch, width)``, any dtype.
            keys: shape ``(n, width)`` with n > 0, contiguous, in any dtype that holds them exactly.
            radii: radii of the keys, shape ``(n,)``.
            slack: allowance for rounding that is added to the radii, per query, shape ``(batch,)``.
        """
        if _use_brute_force(queries, keys):
            return _within_radius(self.nearest(queries, keys), radii, slack)
        queries = normalized(queries, self._dist_fn)
        self._projections.update(keys)
        # A nearest key that matches is within the largest radius. Most queries are outside it, as the bounds show.
        reach = max_squared_distance(radii.max().double() + slack, keys.shape[1] + 2, self._dist_fn).unsqueeze(1)
        rows, columns = self._projections.pairs_within(queries, reach)
        if not len(rows):
            return torch.full((len(queries),), -1, device=queries.device)
        if len(rows) <= _max_candidates(keys):
            return _within_radius(nearest_of_pairs(queries, keys, rows, columns, self._dist_fn), radii, slack)
        size = max(1, _PAIRS_AT_ONCE // len(keys))
        blocks = zip(queries.split(size), slack.split(size), strict=True)
        return torch.cat([self._matching_of_many(block, keys, radii, block_slack) for block, block_slack in blocks])

    @torch.no_grad()
    def within_any_radius(self, queries: Tensor, keys: Rows, radii: Tensor, slack: Tensor) -> Tensor:
        """Return which queries are within the radius of any key, shape ``(batch,)``; see :meth:`matching`."""
        queries = normalized(queries, self._dist_fn)
        if _use_brute_force(queries, keys):
            distances = pairwise_distances(queries, normalized(in_one_tensor(keys), self._dist_fn), self._dist_fn)
            return (distances <= radii + slack.unsqueeze(1)).any(dim=1)
        self._projections.update(keys)
        inside = torch.zeros(len(queries), dtype=torch.bool, device=queries.device)
        for rows in torch.arange(len(queries), device=queries.device).split(max(1, _PAIRS_AT_ONCE // len(keys))):
            reach = self._squared_reach(radii, slack[rows], keys.shape[1])
            possible = self._projections.squared_bounds(queries[rows]) <= reach
            inside[rows] = self._within_radii(queries[rows], keys, possible, radii, slack[rows])
        return inside

    def _matching_of_many(self, queries: Tensor, keys: Rows, radii: Tensor, slack: Tensor) -> Tensor:
        """Return the result of :meth:`matching` for prepared queries if the largest radius leaves many candidates."""
        bounds = self._projections.squared_bounds(queries)
        possible = bounds <= self._squared_reach(radii, slack, keys.shape[1])
        # The search for the nearest key compares candidates again. If they are many, it is cheaper to skip this test.
        many = possible.sum(dim=1) > _max_candidates(keys)
        inside = many | self._within_radii(queries, keys, possible & ~many.unsqueeze(1), radii, slack)
        matches, rows = torch.full((len(queries),), -1, device=queries.device), inside.nonzero().flatten()
        if len(rows):
            matches[rows] = _within_radius(self._nearest(queries[rows], keys, bounds[rows]), radii, slack[rows])
        return matches

    def _within_radii(self, queries: Tensor, keys: Rows, possible: Tensor, radii: Tensor, slack: Tensor) -> Tensor:
        """Return which prepared queries are within the radius of a key in a mask, ``(batch, n)``; ``(batch,)``."""
        rows, columns = possible.nonzero(as_tuple=True)
        within = distances_of_pairs(queries, keys, rows, columns, self._dist_fn) <= radii[columns] + slack[rows]
        return torch.zeros(len(queries), dtype=torch.long, device=rows.device).index_add(0, rows, within.long()) > 0

    def _squared_reach(self, radii: Tensor, slack: Tensor, width: int) -> Tensor:
        """Return the largest squared distance at which each key can match each query, ``(batch, n)``, float64."""
        if self._dist_fn == EUC:
            # Bound radii and slack separately: then each pair costs one addition. The sum is rounded once more, hence
            # width + 2.
            max_radii, max_slack = (max_squared_distance(part, width + 2, EUC).sqrt() for part in (radii, slack))
            return (max_radii + max_slack.unsqueeze(1)).square_()
        return max_squared_distance(radii + slack.unsqueeze(1), width, self._dist_fn)

    def _nearest(self, queries: Tensor, keys: Rows, bounds: Tensor) -> NearestKeys:
        """Return the nearest keys of prepared queries.

        Args:
            queries: prepared queries, shape ``(batch, width)``.
            keys: all keys, not prepared, shape ``(n, width)``.
            bounds: the lower bounds of :meth:`.KeyProjections.squared_bounds`, shape ``(batch, n)``.
        """
        # The distance to any key is an upper bound on the distance to the nearest key.
        upper = self._distances(queries, keys, bounds.argmin(dim=1))
        # Written so that a bound of NaN rules out nothing.
        possible = ~(bounds > max_squared_distance(upper, keys.shape[1], self._dist_fn).unsqueeze(1))
        rows, columns = possible.nonzero(as_tuple=True)
        if len(rows) > _max_candidates(keys):
            many = (possible.sum(dim=1) > _max_candidates(keys)).nonzero().flatten()
            possible[many] &= self._possible_by_products(queries[many], keys, upper[many])
            rows, columns = possible.nonzero(as_tuple=True)
        return nearest_of_pairs(queries, keys, rows, columns, self._dist_fn)

    def _possible_by_products(self, queries: Tensor, keys: Rows, upper: Tensor) -> Tensor:
        """Return which keys a matrix product with all of them can't rule out as the nearest, shape ``(batch, n)``.

        Args:
            queries: prepared, shape ``(batch, width)``.
            keys: the keys.
            upper: an upper bound on each query's distance to its nearest key, shape ``(batch,)``.
        """
        squares, scales = self._projections.squares, self._projections.scales
        norms = vector_norms(queries).unsqueeze(1)
        # The product runs in the keys' dtype; unit length avoids overflow in half precision.
        directions = queries / norms.clamp_min(torch.finfo(torch.float32).tiny)
        with torch.autocast(keys.device.type, enabled=False):
            directions = directions.to(keys.dtype)
            products = torch.cat([directions @ segment.t() for segment in segments_of(keys)], dim=1)
            products = products.double() * scales * norms
        estimate = norms.square() + squares - 2 * products
        underflow = 2 * torch.finfo(keys.dtype).tiny * scales
        allowance = (_PRODUCT_ROUNDING * squares.sqrt() + underflow) * norms
        upper = torch.minimum(upper, self._distances(queries, keys, estimate.argmin(dim=1)))
        max_squared = max_squared_distance(upper, keys.shape[1], self._dist_fn)
        # A product that overflowed rules out nothing.
        return ~(estimate - allowance > max_squared.unsqueeze(1)) | ~products.isfinite()

    def _distances(self, queries: Tensor, keys: Rows, columns: Tensor) -> Tensor:
        """Return the distance of each prepared query to one key, given by its index, shape ``(batch,)``."""
        rows = torch.arange(len(queries), device=queries.device)
        return distances_of_pairs(queries, keys, rows, columns, self._dist_fn)


def _use_brute_force(queries: Tensor, keys: Rows) -> bool:
    """Whether to compare with all keys: they are few, or the device has no float64, or is a GPU that is faster so."""
    if keys.device.type == "cuda" and len(queries) * keys.numel() <= _GPU_BRUTE_FORCE:
        return True
    return len(keys) < BRUTE_FORCE_BELOW or keys.device.type == "mps"


def _max_candidates(keys: Rows) -> int:
    """Return the number of candidates up to which all of them are compared in full."""
    return max(_MAX_CANDIDATES, len(keys) // _MAX_CANDIDATES_DIVISOR)


def _not_beyond(nearest: NearestKeys, within: float) -> NearestKeys:
    """Return the nearest keys, with key -1 at an infinite distance where the distance is more than ``within``."""
    if within == math.inf:
        return nearest
    beyond = nearest.distance > within
    return NearestKeys(nearest.distance.masked_fill(beyond, math.inf), nearest.key.masked_fill(beyond, -1))


def _within_radius(nearest: NearestKeys, radii: Tensor, slack: Tensor) -> Tensor:
    """Return the nearest keys, -1 where the query is outside their radius or at no finite distance, ``(batch,)``."""
    within = (nearest.distance <= radii[nearest.key] + slack) & nearest.distance.isfinite()
    return torch.where(within, nearest.key, -1)
