"""GRACE's codebook: how edits change its keys, values, deferral radii and labels (arXiv 2211.11031, section 3)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.methods.grace.codebook.codebook_arrays import KeyTensors
from easyedit_lifelong.methods.grace.codebook.decisions import Change, Decision, Label, Match, Row
from easyedit_lifelong.methods.grace.codebook.stored_keys import StoredKeys
from easyedit_lifelong.methods.shared.subject_keys.distance import COS, normalized, pairwise_distances

NEAREST_KEY_LIMIT = 10_000
"""In a larger codebook, an edit searches for its rival only as far as a key could be its rival: the distance to a
distant nearest key takes longer to find than all else, and decides nothing."""

_SPLIT_GAP = 1e-5
"""Gap between the two radii of a split, as in the authors' code."""


class Codebook(StoredKeys):
    """Keys that edits add and change; see :class:`.KeyStore` for arguments.

    Attributes:
        further_keys: the codebook of the further keys of edits, at the layer whose output values replace; None if no
            edit has any. A further key is the activation at a token of an edit's target. Its label is the rest of the
            target.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.further_keys: Codebook | None = None

    def decide(self, query: Tensor, label: Label, value: Tensor | None = None) -> tuple[Decision, Match]:
        """Return what an edit would do to the codebook, and its rival: the nearest key that it competes with.

        In a codebook of more than :data:`NEAREST_KEY_LIMIT` keys, an edit out of reach of all keys has no rival.

        This is algorithm 1. If the distance to the rival is more than ``eps`` plus the rival's radius, the edit adds a
        key. Otherwise, if the labels are equal, it expands the rival's radius unless this contains the query already;
        if the labels differ, it splits the distance between both keys.

        If keys have several key vectors, the distance that counts for an expansion is that of the first vector, which
        is the edit's own prompt: the others can be near although the prompt is not. If it is too far away, the edit
        adds a key.

        If the same prompt is edited again with another label, a split would leave a radius of 0. There the later edit
        supersedes the earlier one; the paper does not treat this case. With gates, the edit supersedes the other only
        if their gates are equal, too: otherwise they are two facts about one subject, and both keys stay.

        Args:
            query: the edit's query, all key vectors, shape ``(vectors_per_key * key_size,)``.
            label: the edit's target tokens.
            value: the edit's value, with its gate and radius if the codebook stores these. Edits with distant gates
                do not compete for a key.
        """
        eps, gate = self._initial_radius(value), None
        reach = eps + float(self.radii.max()) if len(self) > NEAREST_KEY_LIMIT else math.inf
        match = self.nearest(query, reach)
        if value is not None and self.gate_eps is not None:
            gate = self._gate_in(value)
            may_reach_a_key = len(self) > 0 and match.distance <= eps + float(self.radii.max())
            if may_reach_a_key:  # otherwise the edit adds a key, whatever the gates
                match = self._nearest_rival(query, gate, self.gate_eps)
        if match.index < 0:
            return Decision.ADD, match
        radius = float(self.radii[match.index])
        if match.distance > eps + radius:
            return Decision.ADD, match
        if self.labels[match.index] == label:
            own = match.distance if self.vectors_per_key == 1 else self._first_distance(query, match.index)
            if own > eps + radius:
                return Decision.ADD, match
            return (Decision.EXPAND if own > radius else Decision.COVERED), Match(match.index, own)
        if match.distance > self._same_query_distance(query):
            return Decision.SPLIT, match
        rival = torch.tensor([match.index], device=self.device)
        other_fact = gate is not None and not bool(self.same_prompt(gate.unsqueeze(0), rival))
        return (Decision.ADD if other_fact else Decision.SUPERSEDE), match

    def _first_distance(self, query: Tensor, index: int) -> float:
        """Return the distance from the first key vector of an edit to a key."""
        first, vectors = self._vectors_of(query)[:1], self._vectors_of(self.row(index).tensors.key)
        distances = pairwise_distances(normalized(first, self.dist_fn), normalized(vectors, self.dist_fn), self.dist_fn)
        return float(distances.min())

    def _nearest_rival(self, query: Tensor, gate: Tensor, gate_eps: float) -> Match:
        """Return the nearest key whose gate is within ``gate_eps`` of an edit's gate.

        If several of these keys equal the query, return the one with the nearest gate.
        """
        distances = self.distances(self._vectors_of(query)).amin(dim=0)
        gate_distances = self.gate_distances(gate.unsqueeze(0))[0]
        distances[gate_distances > gate_eps] = float("inf")
        equals_query = distances <= self._same_query_distance(query)
        if equals_query.any():
            nearest = int(gate_distances.masked_fill(~equals_query, float("inf")).argmin())
        else:
            nearest = int(distances.argmin())
        distance = float(distances[nearest])
        return Match(nearest if distance < float("inf") else -1, distance)

    def insert(
        self, query: Tensor, label: Label, value: Tensor, decided: tuple[Decision, Match] | None = None
    ) -> tuple[Decision, int, Change]:
        """Insert an edit whose value has been trained (algorithm 1).

        What can run out of memory comes first, so that the codebook is then unchanged.

        Args:
            query: the edit's query, all key vectors, shape ``(vectors_per_key * key_size,)``.
            label: the edit's target tokens.
            value: the trained value, followed by gate and radius if the codebook stores these.
            decided: the result of :meth:`decide` for this edit, if it is known.

        Returns:
            The decision, the index of the key that now answers the query, and the change that :meth:`undo` needs.
        """
        decision, match = decided or self.decide(query, label, value)
        if decision is Decision.ADD:
            change = Change(len(self))
            return decision, self._append(query, label, value, self._initial_radius(value)), change
        if decision is Decision.SPLIT:
            change = self._change_at(match.index)
            half = match.distance / 2
            index = self._append(query, label, value, half)
            self.radii[match.index] = half - _SPLIT_GAP
            return decision, index, change
        change = self._change_at(match.index, query.float().clone())
        if decision is Decision.EXPAND:
            self._expand(match, query)
        self._arrays.write_value(match.index, value)
        self.labels[match.index] = label
        return decision, match.index, change

    def _expand(self, match: Match, query: Tensor) -> None:
        """Expand a key's radius to contain a query, according to ``eps_expand``."""
        if self.eps_expand == "moving_average":
            self._arrays.write_key(match.index, (self._arrays.row(match.index).key + query.float()) / 2)
            self._mark_changed(match.index)
        self.radii[match.index] = match.distance

    def _append(self, query: Tensor, label: Label, value: Tensor, radius: float | Tensor) -> int:
        """Add a key; return its index."""
        self._arrays.append(query, value, radius)
        self.labels.append(label)
        return len(self) - 1

    def add_other_names(self, change: Change, label: Label, keys: Sequence[tuple[Tensor, Tensor]]) -> Change:
        """Insert the keys of the other names of an edit's subject, by algorithm 1; each becomes a new key.

        A key with the same label neither covers nor expands to another name, so that its radius stays that of one name.

        Args:
            change: the edit's change so far, the last one of the codebook.
            label: the edit's target tokens.
            keys: for each name, its query and the edit's value with the name's gate and radius; see :meth:`insert`.

        Returns:
            The edit's change with those of the other names.
        """
        added = list[Change]()
        try:
            for query, value in keys:
                decision, match = self.decide(query, label, value)
                if decision in (Decision.EXPAND, Decision.COVERED):
                    decision = Decision.ADD
                added.append(self.insert(query, label, value, (decision, match))[2])
        except BaseException:
            self.undo(*added)
            raise
        return dataclasses.replace(change, other_names=tuple(added))

    def row(self, index: int) -> Row:
        """Return a copy of a key's row."""
        return Row(index, self.labels[index], self._arrays.row(index))

    def add_further_keys(self, change: Change, rows: Sequence[Row]) -> Change:
        """Add further keys to an edit. A key that equals an existing further key takes its place.

        Args:
            change: the edit's change so far.
            rows: labels, keys, values and radii of the further keys. Their ``key_index`` is ignored.

        Returns:
            The edit's change with that of its further keys.
        """
        if not rows:
            return change
        further_keys, added = self._codebook_of_further_keys(rows[0]), list[Change]()
        try:
            for row in rows:
                key = row.tensors.key.to(self.device)
                equal_key = further_keys.nearest(key, within=further_keys._same_query_distance(key)).index
                index = equal_key if equal_key >= 0 else len(further_keys)
                added.append(further_keys.redo([row._replace(key_index=index)]))
        except BaseException:
            self._undo_further_keys(added)
            raise
        return dataclasses.replace(change, further=tuple(added))

    def _codebook_of_further_keys(self, row: Row) -> Codebook:
        """Return the codebook of further keys; create it, with the widths of a row, if there is none."""
        if self.further_keys is None:
            key, value, _ = row.tensors
            self.further_keys = Codebook(
                len(key), len(value), eps=0.0, dist_fn=COS, rounding=self.rounding, device=self.device
            ).train(self.training)
        return self.further_keys

    def _undo_further_keys(self, changes: Sequence[Change]) -> None:
        """Undo the last changes in the codebook of further keys; drop the codebook if it is empty."""
        if self.further_keys is not None:
            self.further_keys.undo(*changes)
            if not len(self.further_keys):
                self.further_keys = None

    def redo(
        self,
        rows: Sequence[Row],
        query: Tensor | None = None,
        further: Sequence[Row] = (),
        other_names: Sequence[tuple[Sequence[Row], Tensor | None]] = (),
    ) -> Change:
        """Repeat what an edit did, from the rows that it left behind instead of a decision.

        Args:
            rows: the rows that the edit changed or added, with their contents right after it.
            query: see :class:`Change`.
            further: the same for each of its further keys.
            other_names: the rows and the query of the key of each other name of the edit's subject.

        Returns:
            The change that :meth:`undo` needs.
        """
        changed_key = next((index for index, _, _ in rows if index < len(self)), None)
        change = Change(len(self)) if changed_key is None else self._change_at(changed_key, query)
        for index, label, (key, value, radius) in rows:
            if index == len(self):
                self._append(key, label, value, radius)
            else:
                self._write(index, label, KeyTensors(key, value, radius))
        if further:
            codebook = self._codebook_of_further_keys(further[0])
            change = dataclasses.replace(change, further=tuple(codebook.redo([row]) for row in further))
        if other_names:
            change = dataclasses.replace(change, other_names=tuple(self.redo(*other) for other in other_names))
        return change

    def undo(self, *changes: Change) -> None:
        """Undo the last edits, given their changes in the order of the edits."""
        for change in reversed(changes):
            self.undo(*change.other_names)
            self._undo_further_keys(change.further)
            for index in range(change.length, len(self)):
                self.hits.pop(index, None)
            del self.labels[change.length :]
            self._arrays.truncate(change.length)
            self._search.truncate(change.length * self.vectors_per_key)
            if change.row_before is not None:
                self._write(*change.row_before)

    def _write(self, index: int, label: Label, tensors: KeyTensors) -> None:
        """Overwrite a key's row."""
        self.labels[index] = label
        self._arrays.write(index, *tensors)
        self._mark_changed(index)

    def _change_at(self, index: int, query: Tensor | None = None) -> Change:
        """Return the change of an edit that is about to change an existing key."""
        return Change(len(self), *self.row(index), query)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Codebook:
        """Move the tensors when the model moves to another device, those of further keys, too."""
        super()._apply(fn, recurse)
        if self.further_keys is not None:
            self.further_keys._apply(fn, recurse)
        return self
