"""The stored keys of GRACE's codebook, with values, deferral radii and labels, and their lookup."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.methods.grace.codebook.codebook_arrays import ARRAY_NAMES, CodebookArrays
from easyedit_lifelong.methods.grace.codebook.decisions import Label, Match
from easyedit_lifelong.methods.grace.codebook.relation_metric import RelationMetric
from easyedit_lifelong.methods.shared.subject_keys.distance import (
    COS,
    EUC,
    normalized,
    pairwise_distances,
    rounding_of,
    vector_norms,
)
from easyedit_lifelong.methods.shared.subject_keys.key_search import Search

SAME_GATE = 1e-3
"""Gates nearer to each other than this are those of one prompt: even in half precision, rounding moves a gate less."""

SAME_DISTANCE = 2e-5
"""Queries nearer than this count as equal."""


class StoredKeys(nn.Module):
    """Keys with values, deferral radii and labels (arXiv 2211.11031, section 3).

    Keys, values and radii are on the device of the layer that they belong to, and are part of the model's
    ``state_dict``. Whatever the model's dtype, values and radii are float32, and keys are stored without rounding;
    :class:`CodebookArrays` chooses the keys' dtype. Every method that writes a key notifies the search.

    A key may consist of several *key vectors* (``views``); the distance to a key is the distance to the nearest of
    them. A value may be stored with a *gate*: the activation of the edit's prompt at a later layer, which the relation
    gate compares. It may also be stored with the initial radius of its key, which then replaces ``eps``.

    Args:
        key_size: width of a query, and of a key vector.
        value_size: width of a value.
        eps: initial radius of a key.
        dist_fn: ``euc`` or ``cos``.
        eps_expand: ``coverage`` or ``moving_average``.
        rounding: the result of :func:`rounding_of` for the model's dtype.
        device: device of the tensors.
        views: number of key vectors of each key.
        gate_size: width of a gate; 0 without gates.
        gate_eps: radius of the gate. Edits whose gates are further apart do not compete for a key. None for no limit.
        relation_metric: projects gates before they are compared by cosine distance; None to compare them as they are.
        per_edit_eps: whether every edit has its own initial radius.

    Attributes:
        labels: the label of each key.
        hits: number of lookups that each key has answered, by the key's index. Not part of the ``state_dict``.
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
        relation_metric: RelationMetric | None = None,
        per_edit_eps: bool = False,
    ) -> None:
        super().__init__()
        self.eps, self.dist_fn, self.eps_expand, self.rounding = eps, dist_fn, eps_expand, rounding
        self.views, self.gate_size, self.gate_eps, self.per_edit_eps = views, gate_size, gate_eps, per_edit_eps
        self.relation_metric = relation_metric
        self.labels: list[Label] = []
        self.hits: Counter[int] = Counter()
        self._value_size = value_size
        self._arrays = CodebookArrays(views * key_size, value_size + gate_size + per_edit_eps, device)
        self._search = Search(dist_fn)

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._arrays)

    @property
    def keys(self) -> Tensor:
        """The keys, shape ``(n, views * key_size)``: float32, or a half-precision dtype that holds them exactly."""
        return self._arrays["keys"]

    @property
    def key_vectors(self) -> Tensor:
        """The key vectors of all keys, key by key, shape ``(n * views, key_size)``."""
        return self.keys.view(len(self) * self.views, -1)

    @property
    def values(self) -> Tensor:
        """The values, shape ``(n, value_size)``."""
        return self._arrays["values"][:, : self._value_size]

    @property
    def gates(self) -> Tensor:
        """The gates, shape ``(n, gate_size)``."""
        return self._arrays["values"][:, self._value_size : self._value_size + self.gate_size]

    def _gate_in(self, value: Tensor) -> Tensor:
        """Return the gate that is stored with one value, shape ``(gate_size,)``."""
        return value[self._value_size : self._value_size + self.gate_size]

    def _initial_radius(self, value: Tensor | None) -> float:
        """Return a new key's radius: the one that is stored with its value, otherwise ``eps``."""
        return float(value[-1]) if value is not None and self.per_edit_eps else self.eps

    @property
    def radii(self) -> Tensor:
        """The deferral radii, shape ``(n,)``."""
        return self._arrays["radii"]

    @property
    def nbytes(self) -> int:
        """Bytes of memory, reserved rows and the search's tensors included."""
        return self._arrays.nbytes + self._search.nbytes

    def distances(self, queries: Tensor) -> Tensor:
        """Return the distance of every query to every key, shape ``(batch, n)``, in float32.

        :meth:`nearest` and :meth:`lookup` decide by the same distances, but compute only the few that matter.

        Args:
            queries: shape ``(batch, key_size)``, any dtype.
        """
        to_vectors = pairwise_distances(
            normalized(queries, self.dist_fn), normalized(self.key_vectors, self.dist_fn), self.dist_fn
        )
        return to_vectors.view(len(queries), len(self), self.views).amin(dim=2)

    def nearest(self, query: Tensor, within: float = math.inf) -> Match:
        """Return the key nearest to a query, or to any key vector of an edit; of equally near keys, the first.

        Args:
            query: a query, shape ``(key_size,)``, or an edit's key vectors, shape ``(views * key_size,)``.
            within: a distance beyond which no key is searched for.
        """
        if not len(self):
            return Match(-1, math.inf)
        nearest = self._search.nearest(self._vectors_of(query), self.key_vectors, within)
        best = int(nearest.distance.argmin())
        return Match(int(nearest.key[best]) // self.views, float(nearest.distance[best]))

    def lookup(self, queries: Tensor) -> Tensor:
        """Return the index of the key that answers each query; -1 where the query is deferred to the model.

        The nearest key answers if its radius, with an allowance for rounding, contains the query: a radius that was
        expanded to a query must contain that query in every batch.

        Args:
            queries: shape ``(batch, key_size)``, any dtype.

        Returns:
            Indices, shape ``(batch,)``.
        """
        if not len(self):
            return torch.full((len(queries),), -1, device=queries.device)
        matching_vectors = self._search.matching(queries, self.key_vectors, self._vector_radii, self._slack(queries))
        return matching_vectors.div(self.views, rounding_mode="floor")  # -1 stays -1

    def within_any_radius(self, queries: Tensor, at_least: float = 0.0) -> Tensor:
        """Return which queries are within the radius of any key, nearest or not, with an allowance for rounding.

        Args:
            queries: shape ``(batch, key_size)``, any dtype.
            at_least: replaces smaller radii.

        Returns:
            Shape ``(batch,)``.
        """
        if not len(self):
            return torch.zeros(len(queries), dtype=torch.bool, device=queries.device)
        radii = self._vector_radii.clamp_min(at_least)
        return self._search.within_any_radius(queries, self.key_vectors, radii, self._slack(queries))

    @property
    def _vector_radii(self) -> Tensor:
        """The radius of each key vector, shape ``(n * views,)``."""
        return self.radii if self.views == 1 else self.radii.repeat_interleave(self.views)

    def relative_distances(self, queries: Tensor, at_least: float = 0.0, distances: Tensor | None = None) -> Tensor:
        """Return the distance of every query to every key in units of the key's radius; infinite outside the radius.

        The allowance for rounding is subtracted first. So the result is 0 for a query that equals the key except for
        rounding, and rounding does not decide between two such keys. Inside the radius, the result is at most 1.

        Args:
            queries: shape ``(batch, key_size)``, any dtype.
            at_least: replaces smaller radii.
            distances: the result of :meth:`distances` for these queries, if it is known.

        Returns:
            Shape ``(batch, n)``, float32.
        """
        radii, slack = self.radii.clamp_min(at_least), self._slack(queries).unsqueeze(1)
        distances = self.distances(queries) if distances is None else distances
        relative = (distances - slack).clamp_min(0) / radii.clamp_min(torch.finfo(torch.float32).tiny)
        return torch.where(distances <= radii + slack, relative.clamp_max(1), float("inf"))

    def gate_distances(self, queries: Tensor, index: Tensor | None = None) -> Tensor:
        """Return the distance of activations at the answer layer to the gates of keys, in the gate's metric.

        Args:
            queries: shape ``(batch, gate_size)``.
            index: indices of the keys; None for all.

        Returns:
            Shape ``(batch, keys)``.
        """
        gates = self.gates if index is None else self.gates[index]
        return pairwise_distances(self.prepared_gates(queries), self.prepared_gates(gates), COS)

    def same_prompt(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return whether activations at the answer layer equal the gates of some keys, except for rounding.

        Args:
            queries: shape ``(batch, gate_size)``.
            keys: indices of the keys, ``(keys,)``.

        Returns:
            Shape ``(batch, keys)``.
        """
        return pairwise_distances(normalized(queries, COS), normalized(self.gates[keys], COS), COS) <= SAME_GATE

    def prepared_gates(self, activations: Tensor) -> Tensor:
        """Return activations at the answer layer as unit vectors whose cosine distance is that of the gate.

        Args:
            activations: shape ``(n, gate_size)``.
        """
        projected = activations if self.relation_metric is None else self.relation_metric.project(activations)
        return normalized(projected, COS)

    def _vectors_of(self, query: Tensor) -> Tensor:
        """Return a query or an edit's key vectors as rows, ``(vectors, key_size)``."""
        return query.view(-1, self.keys.shape[1] // self.views)

    def _slack(self, queries: Tensor) -> Tensor:
        """Return the allowance for rounding that is added to radii, per query, ``(batch,)``."""
        if self.dist_fn == EUC:
            scale = vector_norms(queries.float()).float()
        else:
            scale = queries.new_ones(len(queries), dtype=torch.float32)
        # Under autocast, queries are rounded more than in the model's own dtype.
        return max(self.rounding, rounding_of(queries.dtype)) * scale

    def _same_query_distance(self, query: Tensor) -> float:
        """Return the distance up to which the queries of two edits count as equal."""
        return max(float(self._slack(query.unsqueeze(0))), SAME_DISTANCE)

    def _mark_changed(self, index: int) -> None:
        """Tell the search that a key has changed."""
        for vector in range(index * self.views, (index + 1) * self.views):
            self._search.mark_changed(vector)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> StoredKeys:
        """Move the tensors when the model moves to another device; never change their dtype."""
        device_before = self.keys.device
        self._arrays.move(fn)
        if self.keys.device != device_before:
            self._search.reset()
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for name in ARRAY_NAMES:  # values include gates and initial radii
            destination[prefix + name] = self._arrays[name].clone()

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, _metadata: Any, strict: bool, missing_keys: list[str], *_: Any
    ) -> None:
        missing = [prefix + name for name in ARRAY_NAMES if prefix + name not in state_dict]
        if missing:
            missing_keys += missing if strict else []
            return
        keys, values, radii = (state_dict[prefix + name] for name in ARRAY_NAMES)
        self.hits.clear()  # the counts belong to the former keys
        # The state_dict has no labels. Keys beyond the present ones get the empty label, which no later edit has.
        self.labels = (self.labels + [()] * len(keys))[: len(keys)]
        self._arrays.replace(keys, values, radii)
        self._search.reset()
