"""Find the key nearest to a query exactly, without a full comparison with all keys.

Every key is also stored as a short vector: its projection onto the few directions in which keys vary most, and the
length of the remainder. The distance between two short vectors is a lower bound on the distance between the full
vectors, so a key with too large a bound is ruled out. The remaining candidates are compared in full, with the same
arithmetic as in a comparison with all keys. So the results are identical, ties included (the first key wins). Where a
codebook has several vectors for each key, the "keys" of this module are these vectors.

A GPU is waited for once in a search with few candidates: for their number.

Bounds are computed in float64 as ``|a|² - 2ab + |b|²``, a matrix product that no torch setting (TensorFloat32 or
autocast) makes less precise. If they leave too many candidates, a product with the full keys rules out more of them;
its allowance for rounding holds even in bfloat16. New and changed keys are projected at the next search.
"""

from __future__ import annotations

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
from easyedit_lifelong.methods.shared.subject_keys.principal_directions import principal_directions

BRUTE_FORCE_BELOW = 64
"""With fewer keys than this, a comparison with all of them is as fast."""

_GPU_BRUTE_FORCE = 1 << 27
"""On a GPU, a comparison with all keys computes up to so many differences of two numbers in less time than it takes to
start the kernels of the search: 8 queries and 1,000 keys of width 14,336, in 0.34 ms on an H100."""

_DIRECTIONS = 32
"""Directions that a key is projected onto."""

_SAMPLE = 512
"""Keys from which the directions are computed."""

_REBUILD_GROWTH = 4
"""The directions are computed again when the number of keys has grown by this factor."""

_BLOCK_ROWS = 4096
"""Keys that are projected at once."""

_PAIRS_AT_ONCE = 1 << 22
"""Pairs of query and key whose bounds are in memory at once."""

_MAX_CANDIDATES, _MAX_CANDIDATES_DIVISOR = 512, 32
"""With more candidates than the first number, and than the number of all keys divided by the second, a product with all
keys rules out some candidates before the others are compared in full."""

_ROUNDING = 1e-10
"""Far more than the relative rounding error of a squared bound in float64."""

_PRODUCT_ROUNDING = 0.05
"""More than twice the relative error of a product of two vectors, if vectors and product are rounded to bfloat16."""


class Search:
    """Finds the nearest keys of a codebook. The codebook reports every change of its keys.

    Args:
        dist_fn: ``euc`` or ``cos``.
    """

    def __init__(self, dist_fn: str) -> None:
        self._dist_fn = dist_fn
        self.reset()

    def reset(self) -> None:
        """Drop all projections, since the keys were replaced or moved to another device."""
        self._basis = torch.empty(0)
        self._projections = torch.empty(0)
        self._n_projected = self._n_at_rebuild = 0
        self._stale: set[int] = set()

    def truncate(self, length: int) -> None:
        """Drop the projections of all keys but the first ``length``."""
        self._n_projected = min(self._n_projected, length)
        self._stale = {index for index in self._stale if index < length}

    def mark_changed(self, index: int) -> None:
        """Mark a key's projection as out of date."""
        if index < self._n_projected:
            self._stale.add(index)

    @property
    def nbytes(self) -> int:
        """Bytes of memory in use."""
        return self._basis.nbytes + self._projections.nbytes

    @torch.no_grad()
    def nearest(self, queries: Tensor, keys: Tensor) -> NearestKeys:
        """Return each query's nearest key.

        Args:
            queries: shape ``(batch, width)``, any dtype.
            keys: shape ``(n, width)`` with n > 0, contiguous, in any dtype that holds them exactly.
        """
        queries = normalized(queries, self._dist_fn)
        if _use_brute_force(queries, keys):
            return first_nearest(pairwise_distances(queries, normalized(keys, self._dist_fn), self._dist_fn))
        self._update_projections(keys)
        blocks = queries.split(max(1, _PAIRS_AT_ONCE // len(keys)))
        parts = [self._nearest(block, keys, self._squared_bounds(block)) for block in blocks]
        return NearestKeys(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))

    @torch.no_grad()
    def matching(self, queries: Tensor, keys: Tensor, radii: Tensor, slack: Tensor) -> Tensor:
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
        self._update_projections(keys)
        size = max(1, _PAIRS_AT_ONCE // len(keys))
        blocks = zip(queries.split(size), slack.split(size), strict=True)
        return torch.cat([self._matching(block, keys, radii, block_slack) for block, block_slack in blocks])

    @torch.no_grad()
    def within_any_radius(self, queries: Tensor, keys: Tensor, radii: Tensor, slack: Tensor) -> Tensor:
        """Return which queries are within the radius of any key, shape ``(batch,)``; see :meth:`matching`."""
        queries = normalized(queries, self._dist_fn)
        if _use_brute_force(queries, keys):
            distances = pairwise_distances(queries, normalized(keys, self._dist_fn), self._dist_fn)
            return (distances <= radii + slack.unsqueeze(1)).any(dim=1)
        self._update_projections(keys)
        inside = torch.zeros(len(queries), dtype=torch.bool, device=queries.device)
        for rows in torch.arange(len(queries), device=queries.device).split(max(1, _PAIRS_AT_ONCE // len(keys))):
            possible = self._squared_bounds(queries[rows]) <= self._squared_reach(radii, slack[rows], keys.shape[1])
            inside[rows] = self._within_radii(queries[rows], keys, possible, radii, slack[rows])
        return inside

    def _matching(self, queries: Tensor, keys: Tensor, radii: Tensor, slack: Tensor) -> Tensor:
        """Return the result of :meth:`matching` for one block of prepared queries."""
        bounds = self._squared_bounds(queries)
        # A nearest key that matches is within the largest radius. Most queries are outside it, as the bounds show.
        reach = max_squared_distance(radii.max().double() + slack, keys.shape[1] + 2, self._dist_fn).unsqueeze(1)
        rows, columns = (~(bounds > reach)).nonzero(as_tuple=True)
        if not len(rows):
            return torch.full((len(queries),), -1, device=queries.device)
        if len(rows) <= _max_candidates(keys):
            return _within_radius(nearest_of_pairs(queries, keys, rows, columns, self._dist_fn), radii, slack)
        return self._matching_of_many(queries, keys, radii, slack, bounds)

    def _matching_of_many(self, queries: Tensor, keys: Tensor, radii: Tensor, slack: Tensor, bounds: Tensor) -> Tensor:
        """Return the result of :meth:`matching` where the largest radius leaves many candidates."""
        possible = bounds <= self._squared_reach(radii, slack, keys.shape[1])
        # The search for the nearest key compares candidates again. If they are many, it is cheaper to skip this test.
        many = possible.sum(dim=1) > _max_candidates(keys)
        inside = many | self._within_radii(queries, keys, possible & ~many.unsqueeze(1), radii, slack)
        matches, rows = torch.full((len(queries),), -1, device=queries.device), inside.nonzero().flatten()
        if len(rows):
            matches[rows] = _within_radius(self._nearest(queries[rows], keys, bounds[rows]), radii, slack[rows])
        return matches

    def _within_radii(self, queries: Tensor, keys: Tensor, possible: Tensor, radii: Tensor, slack: Tensor) -> Tensor:
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

    def _nearest(self, queries: Tensor, keys: Tensor, bounds: Tensor) -> NearestKeys:
        """Return the nearest keys of prepared queries, given the bounds that :meth:`_squared_bounds` returns."""
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

    def _possible_by_products(self, queries: Tensor, keys: Tensor, upper: Tensor) -> Tensor:
        """Return which keys a matrix product with all of them can't rule out as the nearest, shape ``(batch, n)``.

        Args:
            queries: prepared, shape ``(batch, width)``.
            keys: the keys.
            upper: an upper bound on each query's distance to its nearest key, shape ``(batch,)``.
        """
        squares, scales = self._projections[: len(keys), -2], self._projections[: len(keys), -1]
        norms = vector_norms(queries).unsqueeze(1)
        # The product runs in the keys' dtype; unit length avoids overflow in half precision.
        directions = queries / norms.clamp_min(torch.finfo(torch.float32).tiny)
        with torch.autocast(keys.device.type, enabled=False):
            products = (directions.to(keys.dtype) @ keys.t()).double() * scales * norms
        estimate = norms.square() + squares - 2 * products
        underflow = 2 * torch.finfo(keys.dtype).tiny * scales
        allowance = (_PRODUCT_ROUNDING * squares.sqrt() + underflow) * norms
        upper = torch.minimum(upper, self._distances(queries, keys, estimate.argmin(dim=1)))
        max_squared = max_squared_distance(upper, keys.shape[1], self._dist_fn)
        # A product that overflowed rules out nothing.
        return ~(estimate - allowance > max_squared.unsqueeze(1)) | ~products.isfinite()

    def _distances(self, queries: Tensor, keys: Tensor, columns: Tensor) -> Tensor:
        """Return the distance of each prepared query to one key, given by its index, shape ``(batch,)``."""
        rows = torch.arange(len(queries), device=queries.device)
        return distances_of_pairs(queries, keys, rows, columns, self._dist_fn)

    def _squared_bounds(self, queries: Tensor) -> Tensor:
        """Return a lower bound on the squared distance of each prepared query to each key, ``(batch, n)``, float64."""
        short, squares = self._shorten(queries)
        keys = self._projections[: self._n_projected]
        return torch.addmm(keys[:, -2], short, keys[:, :-2].t(), alpha=-2).add_(squares)

    def _shorten(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return short vectors, ``(n, directions + 1)``, and lower bounds of their squared norms, ``(n, 1)``."""
        vectors = vectors.double()  # so both results are float64
        projected = vectors @ self._basis
        remainder = torch.addmm(vectors, projected, self._basis.t(), alpha=-1)
        short = torch.cat([projected, vector_norms(remainder).unsqueeze(1)], dim=1)
        return short, short.square().sum(dim=1, keepdim=True) * (1 - _ROUNDING)

    def _update_projections(self, keys: Tensor) -> None:
        """Project the keys that are new or have changed."""
        if self._n_projected == len(keys) and not self._stale:
            return
        # Tensors made in inference mode could not be written to outside of it.
        with torch.inference_mode(False), torch.no_grad():
            if len(keys) >= _REBUILD_GROWTH * self._n_at_rebuild:
                self.reset()
                sample = torch.linspace(0, len(keys) - 1, min(len(keys), _SAMPLE), device=keys.device).long()
                self._basis = principal_directions(normalized(keys[sample], self._dist_fn), _DIRECTIONS).to(keys.device)
                self._projections = self._basis.new_empty(0, self._basis.shape[1] + 3)
                self._n_at_rebuild = len(keys)
            if len(keys) > len(self._projections):
                rows = max(len(keys), 2 * len(self._projections))
                grown = self._projections.new_empty(rows, self._projections.shape[1])
                grown[: self._n_projected] = self._projections[: self._n_projected]
                self._projections = grown
            stale = [*sorted(self._stale), *range(self._n_projected, len(keys))]
            for index in torch.tensor(stale, dtype=torch.long, device=keys.device).split(_BLOCK_ROWS):
                self._project(keys, index)
            self._n_projected = len(keys)
            self._stale.clear()

    def _project(self, keys: Tensor, index: Tensor) -> None:
        """Store, for each key in ``index``, its short vector, squared norm, and the factor that prepares the key."""
        # In this order of columns, which _possible_by_products and _squared_bounds rely on.
        chosen = keys[index]
        short, squares = self._shorten(normalized(chosen, self._dist_fn))
        scale = torch.ones_like(squares)
        if self._dist_fn != EUC:
            scale = torch.where(squares > 0, 1 / vector_norms(chosen).unsqueeze(1), 0)
        self._projections[index] = torch.cat([short, squares, scale], dim=1)


def _use_brute_force(queries: Tensor, keys: Tensor) -> bool:
    """Whether to compare with all keys: they are few, or the device has no float64, or is a GPU that is faster so."""
    if keys.device.type == "cuda" and len(queries) * keys.numel() <= _GPU_BRUTE_FORCE:
        return True
    return len(keys) < BRUTE_FORCE_BELOW or keys.device.type == "mps"


def _max_candidates(keys: Tensor) -> int:
    """Return the number of candidates up to which all of them are compared in full."""
    return max(_MAX_CANDIDATES, len(keys) // _MAX_CANDIDATES_DIVISOR)


def _within_radius(nearest: NearestKeys, radii: Tensor, slack: Tensor) -> Tensor:
    """Return the nearest keys, -1 where the query is outside their radius or at no finite distance, ``(batch,)``."""
    within = (nearest.distance <= radii[nearest.key] + slack) & nearest.distance.isfinite()
    return torch.where(within, nearest.key, -1)
