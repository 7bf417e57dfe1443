"""The lookup in the stored keys of GRACE's codebook, and the distances between queries, keys and gates."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from easyedit_lifelong.methods.grace.codebook.decisions import Match
from easyedit_lifelong.methods.grace.codebook.key_store import KeyStore
from easyedit_lifelong.methods.shared.subject_keys.distance import (
    COS,
    EUC,
    normalized,
    pairwise_distances,
    rounding_of,
    vector_norms,
)

SAME_GATE = 1e-3
"""Gates nearer to each other than this are those of one prompt: even in half precision, rounding moves a gate less."""

SAME_DISTANCE = 2e-5
"""Queries nearer than this count as equal."""


class StoredKeys(KeyStore):
    """Stored keys that can be looked up; see :class:`.KeyStore` for arguments and attributes."""

    def distances(self, queries: Tensor) -> Tensor:
        """Return the distance of every query to every key, shape ``(batch, n)``, in float32.

        :meth:`nearest` and :meth:`lookup` decide by the same distances, but compute only the few that matter.

        Args:
            queries: shape ``(batch, key_size)``, any dtype.
        """
        to_vectors = pairwise_distances(
            normalized(queries, self.dist_fn), normalized(self.key_vectors, self.dist_fn), self.dist_fn
        )
        return to_vectors.view(len(queries), len(self), self.vectors_per_key).amin(dim=2)

    def nearest(self, query: Tensor, within: float = math.inf) -> Match:
        """Return the key nearest to a query, or to any key vector of an edit; of equally near keys, the first.

        Args:
            query: a query, shape ``(key_size,)``, or an edit's key vectors, shape ``(vectors_per_key * key_size,)``.
            within: a distance beyond which no key is searched for.
        """
        if not len(self):
            return Match(-1, math.inf)
        nearest = self._search.nearest(self._vectors_of(query), self._search_rows, within)
        best = int(nearest.distance.argmin())
        return Match(int(nearest.key[best]) // self.vectors_per_key, float(nearest.distance[best]))

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
        matching_vectors = self._search.matching(queries, self._search_rows, self._vector_radii, self._slack(queries))
        return matching_vectors.div(self.vectors_per_key, rounding_mode="floor")  # -1 stays -1

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
        return self._search.within_any_radius(queries, self._search_rows, radii, self._slack(queries))

    @property
    def _vector_radii(self) -> Tensor:
        """The radius of each key vector, shape ``(n * vectors_per_key,)``."""
        return self.radii if self.vectors_per_key == 1 else self.radii.repeat_interleave(self.vectors_per_key)

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
        gates = self.gates if index is None else self.gates_of(index)
        return pairwise_distances(self.prepared_gates(queries), self.prepared_gates(gates), COS)

    def same_prompt(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return whether activations at the answer layer equal the gates of some keys, except for rounding.

        Args:
            queries: shape ``(batch, gate_size)``.
            keys: indices of the keys, ``(keys,)``.

        Returns:
            Shape ``(batch, keys)``.
        """
        return pairwise_distances(normalized(queries, COS), normalized(self.gates_of(keys), COS), COS) <= SAME_GATE

    def prepared_gates(self, activations: Tensor) -> Tensor:
        """Return activations at the answer layer as unit vectors whose cosine distance is that of the gate.

        Args:
            activations: shape ``(n, gate_size)``.
        """
        projected = activations if self.relation_metric is None else self.relation_metric.project(activations)
        return normalized(projected, COS)

    def _vectors_of(self, query: Tensor) -> Tensor:
        """Return a query or an edit's key vectors as rows, ``(vectors, key_size)``."""
        return query.view(-1, self.key_width // self.vectors_per_key)

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
