"""The key nearest to a query, exactly, without comparing all keys in full.

Every key is also stored as its projection on the few directions in which keys vary most, and the length of what the
projection leaves out. The distance between two such short vectors is never more than the distance between the long
ones, so a key whose bound is too large can't be the nearest, or can't answer. What is left is compared in full, with
the very arithmetic of brute force: the answers are the same, ties included (the first key).

Bounds are computed in float64, as ``|a|^2 - 2ab + |b|^2``, a small matrix product that no setting of torch
(TensorFloat32, autocast) makes less precise. Where they rule out too little, a product with the keys themselves does,
with an allowance for rounding that holds even in bfloat16. The short vectors are brought up to date at the next search.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from easyedit_lifelong.methods.grace.codebook.distance import EUC, between, farthest_squared, lengths, prepared

SMALLEST = 64
"""With fewer keys than this, brute force is as fast."""

_DIRECTIONS = 32
"""Numbers that a key is projected to."""

_ITERATIONS = 3
"""Of finding the directions: more rule out hardly more."""

_SAMPLE = 512
"""Keys that the directions are found from."""

_FRESH = 4
"""Directions are found anew when the codebook has grown by this factor."""

_BLOCK = 4096
"""Keys that are projected, or compared in full, at once."""

_PAIRS = 1 << 22
"""Bounds that are held at once: queries times keys."""

_FEW, _FEW_OF = 512, 32
"""With more keys left than this, and than one in so many, a product with all keys thins them out first."""

_ROUNDING = 1e-10
"""Far more than float64 rounds a squared bound by, relative to the squares that it is made of."""

_PRODUCT_ROUNDING = 0.05
"""More than twice a product of two vectors loses, relative to their lengths, if they and it are rounded to bfloat16."""


class Found(NamedTuple):
    """Of every query, the nearest key.

    Attributes:
        distance: shape ``(batch,)``, float32.
        key: its index, shape ``(batch,)``; the first of keys that are equally near.
    """

    distance: Tensor
    key: Tensor


class Search:
    """Finds the nearest keys of a codebook, which keeps it up to date about what changes.

    Args:
        dist_fn: ``euc`` or ``cos``.
    """

    def __init__(self, dist_fn: str) -> None:
        self._dist_fn = dist_fn
        self.forget()

    def forget(self) -> None:
        """Forget all keys: they were replaced, or moved to another device."""
        self._basis = torch.empty(0)
        self._short = torch.empty(0)
        self._covered = self._found_at = 0
        self._changed: set[int] = set()

    def shorten(self, length: int) -> None:
        """Forget the keys from this index on."""
        self._covered = min(self._covered, length)
        self._changed = {index for index in self._changed if index < length}

    def change(self, index: int) -> None:
        """Note that a key has changed."""
        if index < self._covered:
            self._changed.add(index)

    @property
    def nbytes(self) -> int:
        """Bytes of memory in use."""
        return self._basis.nbytes + self._short.nbytes

    @torch.no_grad()
    def nearest(self, queries: Tensor, keys: Tensor) -> Found:
        """Return the nearest of at least one key.

        Args:
            queries: shape ``(batch, width)``, any dtype.
            keys: shape ``(n, width)``, contiguous, in any type that holds them exactly.
        """
        queries = prepared(queries, self._dist_fn)
        if _is_small(keys):
            return self._first(between(queries, prepared(keys, self._dist_fn), self._dist_fn))
        self._catch_up(keys)
        parts = [self._nearest(part, keys, self._bounds(part)) for part in queries.split(max(1, _PAIRS // len(keys)))]
        return Found(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))

    @torch.no_grad()
    def answering(self, queries: Tensor, keys: Tensor, radii: Tensor, slack: Tensor) -> Tensor:
        """Return the nearest key of every query, -1 where the query is outside of that key's radius.

        Args:
            queries: shape ``(batch, width)``, any dtype.
            keys: shape ``(n, width)``, contiguous, in any type that holds them exactly; at least one.
            radii: of the keys, shape ``(n,)``.
            slack: how much longer radii count for each query, shape ``(batch,)``.
        """
        if _is_small(keys):
            return _within(self.nearest(queries, keys), radii, slack)
        queries = prepared(queries, self._dist_fn)
        self._catch_up(keys)
        size = max(1, _PAIRS // len(keys))
        parts = zip(queries.split(size), slack.split(size), strict=True)
        return torch.cat([self._answering(part, keys, radii, rounding) for part, rounding in parts])

    @torch.no_grad()
    def reached(self, queries: Tensor, keys: Tensor, radii: Tensor, slack: Tensor) -> Tensor:
        """Return which queries are within the radius of any key, shape ``(batch,)``; see :meth:`answering`."""
        queries = prepared(queries, self._dist_fn)
        if _is_small(keys):
            distances = between(queries, prepared(keys, self._dist_fn), self._dist_fn)
            return (distances <= radii + slack.unsqueeze(1)).any(dim=1)
        self._catch_up(keys)
        inside = torch.zeros(len(queries), dtype=torch.bool, device=queries.device)
        for rows in torch.arange(len(queries), device=queries.device).split(max(1, _PAIRS // len(keys))):
            near = self._bounds(queries[rows]) <= self._reach(radii, slack[rows], keys.shape[1])
            for n in near.any(dim=1).nonzero().flatten().tolist():
                index, row = near[n].nonzero().flatten(), rows[n]
                inside[row] = self._within_any(queries[row], keys, index, radii, slack[row])
        return inside

    def _answering(self, queries: Tensor, keys: Tensor, radii: Tensor, slack: Tensor) -> Tensor:
        bounds = self._bounds(queries)
        # A key that answers is at most its own radius away; most queries have no such key.
        inside = bounds <= self._reach(radii, slack, keys.shape[1])
        answers = torch.full((len(queries),), -1, device=queries.device)
        rows = []
        for row in inside.any(dim=1).nonzero().flatten().tolist():
            index = inside[row].nonzero().flatten()
            # Too many keys aren't compared twice: then the query may be within a radius.
            if len(index) > _few(keys) or self._within_any(queries[row], keys, index, radii, slack[row]):
                rows.append(row)
        if rows:
            answers[rows] = _within(self._nearest(queries[rows], keys, bounds[rows]), radii, slack[rows])
        return answers

    def _within_any(self, query: Tensor, keys: Tensor, index: Tensor, radii: Tensor, slack: Tensor) -> bool:
        """Whether a query is within the radius of any of these keys."""
        return bool((self._distances(query, keys, index) <= radii[index] + slack).any())

    def _reach(self, radii: Tensor, slack: Tensor, width: int) -> Tensor:
        """Return how far, at most and squared, a key is that answers: ``(batch, n)``, or what is broadcast to it."""
        if self._dist_fn == EUC:
            # One addition for each pair instead of all that `farthest_squared` does; the sum rounds once more.
            far = [farthest_squared(part, width + 2, EUC).sqrt() for part in (radii, slack)]
            return (far[0] + far[1].unsqueeze(1)).square_()
        return farthest_squared(radii + slack.unsqueeze(1), width, self._dist_fn)

    def _nearest(self, queries: Tensor, keys: Tensor, bounds: Tensor) -> Found:
        """Return the nearest keys, given what :meth:`_bounds` says."""
        guess = bounds.argmin(dim=1)
        upper = self._pairwise(queries, keys, guess)
        left = ~(bounds > farthest_squared(upper, keys.shape[1], self._dist_fn).unsqueeze(1))
        many = (left.sum(dim=1) > _few(keys)).nonzero().flatten()
        if len(many):
            left[many] &= self._by_products(queries[many], keys, upper[many])
        found = []
        for row, keep in enumerate(left):
            candidates = keep.nonzero().flatten()
            distance, at = self._first(self._distances(queries[row], keys, candidates).unsqueeze(0))
            found.append((distance, candidates[at]))
        return Found(*(torch.cat(tensors) for tensors in zip(*found, strict=True)))

    def _by_products(self, queries: Tensor, keys: Tensor, upper: Tensor) -> Tensor:
        """Return which keys a product with all of them can't rule out, shape ``(batch, n)``.

        Args:
            queries: prepared, shape ``(batch, width)``.
            keys: shape ``(n, width)``.
            upper: how far the nearest key is at most, shape ``(batch,)``.
        """
        sizes, scales = self._short[: len(keys), -2], self._short[: len(keys), -1]
        size = lengths(queries).unsqueeze(1)
        # In half precision, if keys are kept in it, and at unit length for its sake.
        aims = queries / size.clamp_min(torch.finfo(torch.float32).tiny)
        with torch.autocast(keys.device.type, enabled=False):
            products = (aims.to(keys.dtype) @ keys.t()).double() * scales * size
        estimate = size.square() + sizes - 2 * products
        lost = 2 * torch.finfo(keys.dtype).tiny * scales  # of products that are hardly told from zero
        allowance = (_PRODUCT_ROUNDING * sizes.sqrt() + lost) * size
        upper = torch.minimum(upper, self._pairwise(queries, keys, estimate.argmin(dim=1)))
        far = farthest_squared(upper, keys.shape[1], self._dist_fn)
        return ~(estimate - allowance > far.unsqueeze(1)) | ~products.isfinite()  # where the type is too narrow

    def _pairwise(self, queries: Tensor, keys: Tensor, index: Tensor) -> Tensor:
        """Return each query's distance to one key of its own, shape ``(batch,)``."""
        chosen = prepared(keys[index], self._dist_fn)
        return between(queries.unsqueeze(1), chosen.unsqueeze(1), self._dist_fn).flatten()

    def _distances(self, query: Tensor, keys: Tensor, index: Tensor) -> Tensor:
        """Return a query's distances to some keys, shape ``(len(index),)``."""
        blocks = (prepared(keys[part], self._dist_fn) for part in index.split(_BLOCK))
        return torch.cat([between(query.unsqueeze(0), block, self._dist_fn).flatten() for block in blocks])

    @staticmethod
    def _first(distances: Tensor) -> Found:
        index = distances.argmin(dim=1)  # the first of equal ones, as torch documents
        return Found(distances.gather(1, index.unsqueeze(1)).squeeze(1), index)

    def _bounds(self, queries: Tensor) -> Tensor:
        """Return how far every prepared query is from every key at least, squared: ``(batch, n)``, float64."""
        short, size = self._shortened(queries)
        factors = torch.cat([-2 * short, torch.ones_like(size)], dim=1)
        return (factors @ self._short[: self._covered, :-1].t()).add_(size)

    def _shortened(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return prepared vectors' projections with the length of the rest, and their squared norms less rounding.

        Returns:
            Shapes ``(n, directions + 1)`` and ``(n, 1)``, float64.
        """
        vectors = vectors.double()
        projected = vectors @ self._basis
        rest = torch.addmm(vectors, projected, self._basis.t(), alpha=-1)
        short = torch.cat([projected, lengths(rest).unsqueeze(1)], dim=1)
        return short, short.square().sum(dim=1, keepdim=True) * (1 - _ROUNDING)

    def _catch_up(self, keys: Tensor) -> None:
        """Project the keys that are new or have changed."""
        # Not as tensors of inference mode, which couldn't be written to outside of it.
        with torch.inference_mode(False), torch.no_grad():
            if len(keys) >= _FRESH * self._found_at:
                self.forget()
                sample = torch.linspace(0, len(keys) - 1, min(len(keys), _SAMPLE), device=keys.device).long()
                self._basis = _directions(prepared(keys[sample], self._dist_fn)).to(keys.device)
                self._short = self._basis.new_empty(0, self._basis.shape[1] + 3)
                self._found_at = len(keys)
            if len(keys) > len(self._short):
                grown = self._short.new_empty(max(len(keys), 2 * len(self._short)), self._short.shape[1])
                grown[: self._covered] = self._short[: self._covered]
                self._short = grown
            stale = [*sorted(self._changed), *range(self._covered, len(keys))]
            for index in torch.tensor(stale, dtype=torch.long, device=keys.device).split(_BLOCK):
                self._project(keys, index)
            self._covered = len(keys)
            self._changed.clear()

    def _project(self, keys: Tensor, index: Tensor) -> None:
        """Store of some keys their projection, the length of the rest, squared norm, and scale to what is compared."""
        chosen = keys[index]
        short, size = self._shortened(prepared(chosen, self._dist_fn))
        scale = torch.ones_like(size)
        if self._dist_fn != EUC:
            scale = torch.where(size > 0, 1 / lengths(chosen).unsqueeze(1), 0)
        self._short[index] = torch.cat([short, size, scale], dim=1)


def _is_small(keys: Tensor) -> bool:
    return len(keys) < SMALLEST or keys.device.type == "mps"  # where there is no float64


def _few(keys: Tensor) -> int:
    return max(_FEW, len(keys) // _FEW_OF)


def _within(found: Found, radii: Tensor, slack: Tensor) -> Tensor:
    """Return the keys found, -1 where the query is outside of their radii, or infinitely far."""
    answers = (found.distance <= radii[found.key] + slack) & found.distance.isfinite()
    return torch.where(answers, found.key, -1)


def _directions(sample: Tensor) -> Tensor:
    """Return orthonormal directions in which vectors vary most, about: ``(width, directions)``, float64.

    By subspace iteration, which can't fail to converge, on the CPU.
    """
    sample = sample.double().cpu()
    sample = sample - sample.mean(dim=0)
    width = sample.shape[1]
    seeded = torch.Generator().manual_seed(0)
    basis = torch.randn(width, min(_DIRECTIONS, width), generator=seeded, dtype=torch.float64)
    for _ in range(_ITERATIONS):
        basis = torch.linalg.qr(sample.t() @ (sample @ basis)).Q
    return basis
