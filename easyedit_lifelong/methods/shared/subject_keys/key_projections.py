"""Short vectors of keys, by which a search rules out most keys without reading them.

A short vector is the projection of a key onto the few directions in which keys vary most, and the length of the
remainder. The distance between two short vectors is a lower bound on the distance between the full vectors. The first
directions alone, with the remainder that they leave, give a weaker bound for less work.

Bounds are computed in float64 as ``|a|² - 2ab + |b|²``, a matrix product that no torch setting (TensorFloat32 or
autocast) makes less precise. New and changed keys are projected at the next search.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from easyedit_lifelong.methods.shared.subject_keys.distance import EUC, normalized, vector_norms
from easyedit_lifelong.methods.shared.subject_keys.principal_directions import principal_directions
from easyedit_lifelong.methods.shared.subject_keys.segmented_rows import Rows

PROJECTION_TENSORS = ("search_basis", "search_table", "search_rebuilt_at")
"""Names of the tensors of projections in files."""

_FLOAT64 = torch.float64

_DIRECTIONS = 32
"""Directions that a key is projected onto."""

_FIRST_DIRECTIONS = 8
"""Directions of the weaker bound."""

_SAMPLE = 512
"""Keys from which the directions are computed."""

_REBUILD_GROWTH = 4
"""The directions are computed again when the number of keys has grown by this factor."""

_BLOCK_ROWS = 4096
"""Keys that are projected at once."""

_CPU_BLOCK, _CPU_PAIRS = 8192, 1 << 18
"""Keys, and pairs of query and key, whose bounds are computed at once on a CPU, so that they stay in its cache."""

_PAIRS_AT_ONCE = 1 << 22
"""Pairs of query and key whose bounds are in memory at once."""

_FEW = 16
"""The bound of all directions is computed pair by pair if the weaker bound leaves less than one pair in this number."""

_ROUNDING = 1e-10
"""Far more than the relative rounding error of a squared bound in float64."""


class KeyProjections:
    """A table of the short vectors of keys, one column for each key.

    The rows of the table are: the first directions and the length of the remainder that they leave; the other
    directions and the length of the remainder that all leave; a lower bound of the squared norm; and the factor that
    gives the key unit length (1 for Euclidean distance).

    Args:
        dist_fn: ``euc`` or ``cos``.
    """

    def __init__(self, dist_fn: str) -> None:
        self._dist_fn = dist_fn
        self.reset()

    def reset(self) -> None:
        """Drop all projections, since the keys were replaced or moved to another device."""
        self._basis = torch.empty(0)
        self._table = torch.empty(0, 0)
        self._count = self._count_at_rebuild = 0
        self._stale: set[int] = set()

    def truncate(self, length: int) -> None:
        """Drop the projections of all keys but the first ``length``."""
        self._count = min(self._count, length)
        self._stale = {index for index in self._stale if index < length}

    def mark_changed(self, index: int) -> None:
        """Mark a key's projection as out of date."""
        if index < self._count:
            self._stale.add(index)

    @property
    def nbytes(self) -> int:
        """Bytes of memory in use."""
        return self._basis.nbytes + self._table.nbytes

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that :meth:`restore` needs, by name; none if no key is projected."""
        if not self._count:
            return {}
        tensors = (self._basis, self._table[:, : self._count], torch.tensor(self._count_at_rebuild))
        return dict(zip(PROJECTION_TENSORS, tensors, strict=True))

    def restore(self, tensors: Mapping[str, Tensor], count: int, width: int) -> None:
        """Restore the projections of keys that have not changed since :meth:`tensors` was called.

        Args:
            tensors: what :meth:`tensors` returned.
            count: the number of keys.
            width: their width.

        Raises:
            ValueError: they are not the projections of such keys.
        """
        basis, table, count_at_rebuild = (tensors[name] for name in PROJECTION_TENSORS)
        expected = (width, basis.shape[-1]), (basis.shape[-1] + 4, count), ()
        if (basis.shape, table.shape, count_at_rebuild.shape) != expected or not basis.dtype == table.dtype == _FLOAT64:
            raise ValueError(f"projections of shapes {tuple(basis.shape)} and {tuple(table.shape)} for {count} keys")
        self.reset()
        self._basis, self._table, self._count = basis, table, count
        self._count_at_rebuild = int(count_at_rebuild)

    @property
    def squares(self) -> Tensor:
        """Lower bounds of the keys' squared norms, shape ``(n,)``, float64."""
        return self._table[-2, : self._count]

    @property
    def scales(self) -> Tensor:
        """The factors that give the keys unit length, shape ``(n,)``, float64; 1 for Euclidean distance."""
        return self._table[-1, : self._count]

    def update(self, keys: Rows) -> None:
        """Project the keys that are new or have changed.

        Args:
            keys: all keys, not prepared, shape ``(n, width)``.
        """
        if self._count == len(keys) and not self._stale:
            return
        # Tensors made in inference mode could not be written to outside of it.
        with torch.inference_mode(False), torch.no_grad():
            if len(keys) >= _REBUILD_GROWTH * self._count_at_rebuild:
                self.reset()
                sample = torch.linspace(0, len(keys) - 1, min(len(keys), _SAMPLE), device=keys.device).long()
                self._basis = principal_directions(normalized(keys[sample], self._dist_fn), _DIRECTIONS).to(keys.device)
                self._table = self._basis.new_empty(self._basis.shape[1] + 4, 0)
                self._count_at_rebuild = len(keys)
            if len(keys) > self._table.shape[1]:
                columns = max(len(keys), 2 * self._table.shape[1])
                grown = self._table.new_empty(len(self._table), columns)
                grown[:, : self._count] = self._table[:, : self._count]
                self._table = grown
            stale = [*sorted(self._stale), *range(self._count, len(keys))]
            for index in torch.tensor(stale, dtype=torch.long, device=keys.device).split(_BLOCK_ROWS):
                self._project(keys, index)
            self._count = len(keys)
            self._stale.clear()

    def squared_bounds(self, queries: Tensor) -> Tensor:
        """Return a lower bound on the squared distance of each prepared query to each key, ``(batch, n)``, float64."""
        short, squares = self._shorten(queries)
        return self._bounds(_without_first_remainder(short), slice(0, self._count)).add_(squares)

    def pairs_within(self, queries: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pairs of query and key whose bound is at most the query's reach. A bound of NaN counts as such.

        On a GPU, only the number of pairs is waited for, if the bounds of all pairs fit into memory at once.

        Args:
            queries: prepared queries, shape ``(batch, width)``.
            reach: squared distances, shape ``(batch, 1)``, float64.

        Returns:
            The indices of queries and of keys, each of shape ``(pairs,)``.
        """
        short, squares = self._shorten(queries)
        full = _without_first_remainder(short)
        size = max(1, _PAIRS_AT_ONCE // max(1, len(queries)))
        if queries.device.type == "cpu":
            size = min(size, _CPU_BLOCK, max(1, _CPU_PAIRS // max(1, len(queries))))
        if size >= self._count:
            return _pairs(self._bounds(full, slice(0, self._count)), reach - squares)
        rows, columns = self._pairs_in_blocks(short[:, : _first(self._basis) + 1], squares, reach, size)
        if len(rows) * _FEW > len(queries) * self._count:
            return self._pairs_in_blocks(full, squares, reach, size)
        bounds = (self._table[: full.shape[1], columns] * full.t()[:, rows]).sum(dim=0)
        bounds = self.squares[columns] - 2 * bounds + squares[rows, 0]
        possible = ~(bounds > reach[rows, 0])
        return rows[possible], columns[possible]

    def _pairs_in_blocks(self, short: Tensor, squares: Tensor, reach: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Return the pairs of :meth:`pairs_within`, by the bound of the first columns of short queries.

        Args:
            short: short queries, or their first columns, shape ``(batch, columns)``.
            squares: lower bounds of the queries' squared norms, shape ``(batch, 1)``.
            reach: squared distances, shape ``(batch, 1)``.
            size: number of keys whose bounds are computed at once.
        """
        reach = reach - squares
        found = [torch.empty(2, 0, dtype=torch.long, device=short.device)]
        for begin in range(0, self._count, size):
            bounds = self._bounds(short, slice(begin, min(begin + size, self._count)))
            if (~(bounds.amin(dim=1, keepdim=True) > reach)).any():  # most blocks hold no such pair
                found.append(torch.stack(_pairs(bounds, reach)))
                found[-1][1] += begin
        rows, columns = torch.cat(found, dim=1)
        return rows, columns

    def _bounds(self, short: Tensor, block: slice) -> Tensor:
        """Return the bounds of short queries, or of their first columns, and a block of keys, less ``|query|²``."""
        return torch.addmm(self._table[-2, block], short, self._table[: short.shape[1], block], alpha=-2)

    def _shorten(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return short vectors, ``(n, directions + 2)``, and lower bounds of their squared norms, ``(n, 1)``."""
        vectors = vectors.double()  # so both results are float64
        projected = vectors @ self._basis
        first, others = projected.split([_first(self._basis), projected.shape[1] - _first(self._basis)], dim=1)
        remainder = torch.addmm(vectors, projected, self._basis.t(), alpha=-1)
        after_all = vector_norms(remainder).unsqueeze(1)
        after_first = vector_norms(torch.cat([others, after_all], dim=1)).unsqueeze(1)
        squares = torch.cat([projected, after_all], dim=1).square().sum(dim=1, keepdim=True) * (1 - _ROUNDING)
        return torch.cat([first, after_first, others, after_all], dim=1), squares

    def _project(self, keys: Rows, index: Tensor) -> None:
        """Store, for each key in ``index``, its short vector, squared norm, and the factor that prepares the key."""
        chosen = keys[index]
        short, squares = self._shorten(normalized(chosen, self._dist_fn))
        scale = torch.ones_like(squares)
        if self._dist_fn != EUC:
            scale = torch.where(squares > 0, 1 / vector_norms(chosen).unsqueeze(1), 0)
        self._table[:, index] = torch.cat([short, squares, scale], dim=1).t()


def _first(basis: Tensor) -> int:
    """Return the number of directions of the weaker bound."""
    return min(_FIRST_DIRECTIONS, basis.shape[1])


def _without_first_remainder(short: Tensor) -> Tensor:
    """Return short queries with 0 in place of the remainder that the first directions leave, for the stronger bound."""
    short = short.clone()
    short[:, min(_FIRST_DIRECTIONS, short.shape[1] - 2)] = 0
    return short


def _pairs(bounds: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    """Return the indices of the pairs that a matrix of bounds does not rule out."""
    # Written so that a bound of NaN rules out nothing.
    rows, columns = (~(bounds > reach)).nonzero(as_tuple=True)
    return rows, columns
