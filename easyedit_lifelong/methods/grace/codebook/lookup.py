"""The keys of GRACE's codebook, with values, deferral radii and labels: stored, and looked up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.methods.grace.codebook.arrays import NAMES, Entries
from easyedit_lifelong.methods.grace.codebook.decisions import Label, Match
from easyedit_lifelong.methods.grace.codebook.distance import COS, EUC, between, lengths, prepared
from easyedit_lifelong.methods.grace.codebook.search import Search


def rounding_of(dtype: torch.dtype) -> float:
    """Return how far an activation moves, relative to its norm, as batch and padding change."""
    return 4e-6 if dtype in (torch.float32, torch.float64) else torch.finfo(dtype).eps / 4


SAME_DISTANCE = 2e-5
"""Queries nearer than this are the same."""


class StoredKeys(nn.Module):
    """Keys with values, deferral radii and labels.

    Keys, values and radii live on the device of the layer that they belong to, and are part of the model's
    ``state_dict``. Whatever the model's dtype, values and radii are float32, and keys to the last bit what they would
    be in float32; :class:`Entries` decides how they are stored. Whatever writes a key notifies the search.

    A key may consist of several *key vectors*; the distance to a key is the distance to the nearest of them.
    A value may be stored with a *gate*, a second key that queries of another kind are compared with, and with the
    radius that its key starts with in place of ``eps``.

    Args:
        key_size: width of a query, and of a key vector.
        value_size: width of a value.
        eps: radius that a new key starts with.
        dist_fn: ``euc`` or ``cos``.
        eps_expand: ``coverage`` or ``moving_average``.
        rounding: see :func:`rounding_of`, for the model's dtype.
        device: where to store it.
        views: number of key vectors of each key.
        gate_size: width of a gate; 0 without.
        gate_eps: how far apart, in cosine distance, the gates of two edits are that don't compete for a key; None if
            all do.
        own_eps: whether every key brings its own radius.

    Attributes:
        labels: each key's label.
        hits: how often each key has answered a lookup, by its index. Not part of the model's ``state_dict``.
    """

    def __init__(
        self,
        key_size: int,
        value_size: int,
        *,
        eps: float,
        dist_fn: str = "euc",
        eps_expand: str = "coverage",
        rounding: float = 4e-6,
        device: torch.device | str | None = None,
        views: int = 1,
        gate_size: int = 0,
        gate_eps: float | None = None,
        own_eps: bool = False,
    ) -> None:
        super().__init__()
        self.eps, self.dist_fn, self.eps_expand, self.rounding = eps, dist_fn, eps_expand, rounding
        self.views, self.gate_size, self.gate_eps, self.own_eps = views, gate_size, gate_eps, own_eps
        self.labels: list[Label] = []
        self.hits: Counter[int] = Counter()
        self._value_size = value_size
        self._entries = Entries(views * key_size, value_size + gate_size + own_eps, device)
        self._search = Search(dist_fn)

    def __len__(self) -> int:
        """Count the keys."""
        return len(self._entries)

    @property
    def keys(self) -> Tensor:
        """The keys, shape ``(n, views * key_size)``: float32, or the half precision that holds them all."""
        return self._entries["keys"]

    @property
    def key_views(self) -> Tensor:
        """The key vectors of all keys, key by key, shape ``(n * views, key_size)``."""
        return self.keys.view(len(self) * self.views, -1)

    @property
    def values(self) -> Tensor:
        """The values, shape ``(n, value_size)``."""
        return self._entries["values"][:, : self._value_size]

    @property
    def gates(self) -> Tensor:
        """The gates, shape ``(n, gate_size)``."""
        return self._entries["values"][:, self._value_size : self._value_size + self.gate_size]

    @property
    def radii(self) -> Tensor:
        """The deferral radii, shape ``(n,)``."""
        return self._entries["radii"]

    @property
    def nbytes(self) -> int:
        """Bytes of memory that tensors take: those in use, those in reserve, and the search's."""
        return self._entries.nbytes + self._search.nbytes

    def distances(self, queries: Tensor) -> Tensor:
        """Return the distance of every query to every key, shape ``(batch, n)``, in float32.

        That is what :meth:`nearest` and :meth:`lookup` decide by; they look at few of the keys.
        """
        to_vectors = between(prepared(queries, self.dist_fn), prepared(self.key_views, self.dist_fn), self.dist_fn)
        return to_vectors.view(len(queries), len(self), self.views).amin(dim=2)

    def nearest(self, query: Tensor) -> Match:
        """Return the key nearest to one query, or to the key vectors of an edit: the first of equally near ones.

        Args:
            query: shape ``(key_size,)`` or ``(views * key_size,)``.
        """
        if not len(self):
            return Match(-1, float("inf"))
        distances, found = self._search.nearest(self._vectors_of(query), self.key_views)
        best = int(distances.argmin())
        return Match(int(found[best]) // self.views, float(distances[best]))

    def lookup(self, queries: Tensor) -> Tensor:
        """Return which key answers each query: its index, or -1 where the query is deferred.

        The nearest key answers if the query is within its radius, but for rounding: a radius
        that was expanded to a query must hold that query in any batch.

        Args:
            queries: shape ``(batch, key_size)``, any dtype.

        Returns:
            Indices, shape ``(batch,)``.
        """
        if not len(self):
            return torch.full((len(queries),), -1, device=queries.device)
        found = self._search.answering(queries, self.key_views, self._vector_radii, self._rounding(queries))
        return found if self.views == 1 else found.div(self.views, rounding_mode="floor")  # which leaves -1 as it is

    def reached(self, queries: Tensor) -> Tensor:
        """Return which queries are within the radius of any key, be it the nearest or not, give or take rounding.

        Args:
            queries: shape ``(batch, key_size)``, any dtype.

        Returns:
            Shape ``(batch,)``.
        """
        if not len(self):
            return torch.zeros(len(queries), dtype=torch.bool, device=queries.device)
        return self._search.reached(queries, self.key_views, self._vector_radii, self._rounding(queries))

    @property
    def _vector_radii(self) -> Tensor:
        return self.radii if self.views == 1 else self.radii.repeat_interleave(self.views)

    def nearness(self, queries: Tensor) -> Tensor:
        """Return how near every key is to each query: 0 at the key, 1 at its radius, infinite where it isn't reached.

        What is at a key but for rounding is at 0, so that which of two such keys is nearer isn't left to rounding.

        Args:
            queries: shape ``(batch, key_size)``, any dtype.

        Returns:
            Shape ``(batch, n)``, float32.
        """
        slack, distances = self._rounding(queries).unsqueeze(1), self.distances(queries)
        share = (distances - slack).clamp_min(0) / self.radii.clamp_min(torch.finfo(torch.float32).tiny)
        return torch.where(distances <= self.radii + slack, share.clamp_max(1), float("inf"))

    def gate_distances(self, query: Tensor, index: Tensor | None = None) -> Tensor:
        """Return the cosine distance of one query of the gates' kind to some keys' gates, or to all.

        Args:
            query: shape ``(gate_size,)``.
            index: which keys; None for all.

        Returns:
            Shape ``(keys,)``.
        """
        gates = self.gates if index is None else self.gates[index]
        return between(prepared(query.unsqueeze(0), COS), prepared(gates, COS), COS)[0]

    def _vectors_of(self, query: Tensor) -> Tensor:
        return query.view(-1, self.keys.shape[1] // self.views)

    def _rounding(self, queries: Tensor) -> Tensor:
        scale = (
            lengths(queries.float()).float()  # which don't depend on the batch
            if self.dist_fn == EUC
            else queries.new_ones(len(queries), dtype=torch.float32)
        )
        # Under autocast, queries are rounded more than the model's own dtype says.
        return max(self.rounding, rounding_of(queries.dtype)) * scale

    def _same(self, query: Tensor) -> float:
        """Return how far apart the queries of two edits may be to count as the same."""
        return max(float(self._rounding(query.unsqueeze(0))), SAME_DISTANCE)

    def _changed(self, index: int) -> None:
        for view in range(self.views):
            self._search.change(index * self.views + view)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> StoredKeys:
        """Follow the model to another device, but never to another dtype."""
        before = self.keys.device
        self._entries.move(fn)
        if self.keys.device != before:
            self._search.forget()
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for name in NAMES:  # values with their gates and radii
            destination[prefix + name] = self._entries[name].clone()

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, _metadata: Any, strict: bool, missing_keys: list[str], *_: Any
    ) -> None:
        missing = [prefix + name for name in NAMES if prefix + name not in state_dict]
        if missing:
            missing_keys += missing if strict else []
            return
        loaded = [state_dict[prefix + name] for name in NAMES]
        self.hits.clear()  # they are of other keys
        # Labels aren't tensors; a key without one matches no later edit's label.
        self.labels = (self.labels + [()] * len(loaded[0]))[: len(loaded[0])]
        self._entries.replace(*loaded)
        self._search.forget()
