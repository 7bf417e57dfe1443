"""GRACE's codebook: how edits change its keys, values, deferral radii and labels (arXiv 2211.11031, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from easyedit_lifelong.methods.grace.codebook.decisions import Change, Decision, Label, Match, Row
from easyedit_lifelong.methods.grace.codebook.stored_keys import StoredKeys

_SPLIT_GAP = 1e-5
"""Gap between the two radii of a split, as in the authors' code."""

_SAME_GATE = 1e-3
"""Gates nearer than this belong to one prompt. Rounding, even in half precision, moves them far less."""


class Codebook(StoredKeys):
    """Keys that edits add and change; see :class:`.StoredKeys` for arguments and attributes."""

    def decide(self, query: Tensor, label: Label, value: Tensor | None = None) -> tuple[Decision, Match]:
        """Return what an edit would do, and the nearest key that it competes with (algorithm 1).

        If the distance to that key is more than ``eps`` plus the key's radius, the edit adds a key. Otherwise, with
        the same label, it expands the radius if the query is outside of it; with another label, it splits the distance.

        If the same prompt is edited again with another label, a split would leave a radius of 0. There the later edit
        supersedes the earlier one; the paper does not treat this case. With gates, the edit supersedes the other only
        if their gates are equal, too: otherwise they are two facts about one subject, and both keys stay.

        Args:
            query: the edit's query, all key vectors, shape ``(views * key_size,)``.
            label: the edit's target tokens.
            value: the edit's value, with its gate and radius if the codebook stores these. Edits with distant gates
                do not compete for a key.
        """
        match, eps, gate = self.nearest(query), self.eps, None
        if value is not None and self.per_edit_eps:
            eps = float(value[-1])
        if value is not None and self.gate_eps is not None:
            gate = value[self._value_size :][: self.gate_size]
            if len(self) and match.distance <= eps + float(self.radii.max()):  # otherwise the edit adds a key anyway
                match = self._nearest_rival(query, gate, self.gate_eps)
        if match.index < 0:
            return Decision.ADD, match
        radius = float(self.radii[match.index])
        if match.distance > eps + radius:
            return Decision.ADD, match
        if self.labels[match.index] == label:
            return (Decision.EXPAND if match.distance > radius else Decision.COVERED), match
        if match.distance > self._same_query_distance(query):
            return Decision.SPLIT, match
        other_fact = gate is not None and float(self.gate_distances(gate)[match.index]) > _SAME_GATE
        return (Decision.ADD if other_fact else Decision.SUPERSEDE), match

    def _nearest_rival(self, query: Tensor, gate: Tensor, gate_eps: float) -> Match:
        """Return the nearest key whose gate is within ``gate_eps`` of an edit's gate.

        Of the keys that equal the query, the one with the nearest gate.
        """
        distances, gate_distances = self.distances(self._vectors_of(query)).amin(dim=0), self.gate_distances(gate)
        distances[gate_distances > gate_eps] = float("inf")
        at_query = distances <= self._same_query_distance(query)
        best = int((gate_distances.masked_fill(~at_query, float("inf")) if at_query.any() else distances).argmin())
        nearest = float(distances[best])
        return Match(best, nearest) if nearest < float("inf") else Match(-1, nearest)

    def enter(
        self, query: Tensor, label: Label, value: Tensor, decided: tuple[Decision, Match] | None = None
    ) -> tuple[Decision, int, Change]:
        """Insert an edit whose value has been trained (algorithm 1).

        Args:
            query: the edit's query, all key vectors, shape ``(views * key_size,)``.
            label: the edit's target tokens.
            value: the trained value, followed by gate and radius if the codebook stores these.
            decided: the result of :meth:`decide` for this edit, if it is known.

        Returns:
            The decision, the index of the key that now answers the query, and the change that :meth:`undo` needs.
        """
        decision, match = decided or self.decide(query, label, value)
        nearest = match.index
        if decision in (Decision.ADD, Decision.SPLIT):
            change = self._change_of(nearest if decision is Decision.SPLIT else None)
            half = match.distance / 2
            radius = half if decision is Decision.SPLIT else float(value[-1]) if self.per_edit_eps else self.eps
            if decision is Decision.SPLIT:
                self.radii[nearest] = half - _SPLIT_GAP
            return decision, self._append(query, label, value, radius), change
        change = self._change_of(nearest, query.float().clone())
        self._arrays["values"][nearest] = value.float()
        self.labels[nearest] = label
        if decision is Decision.EXPAND:
            if self.eps_expand == "moving_average":
                self._arrays.write_key(nearest, (self.keys[nearest].float() + query.float()) / 2)
                self._mark_changed(nearest)
            self.radii[nearest] = match.distance
        return decision, nearest, change

    def _append(self, query: Tensor, label: Label, value: Tensor, radius: float | Tensor) -> int:
        """Add a key; return its index."""
        self._arrays.append(query, value, radius)
        self.labels.append(label)
        return len(self) - 1

    def row(self, index: int) -> Row:
        """Return a copy of a key's row: index, label, and key, value and radius."""
        return index, self.labels[index], self._arrays.row(index)

    def redo(self, rows: Sequence[Row], query: Tensor | None = None) -> Change:
        """Repeat the change of an edit without a decision.

        Args:
            rows: the rows that the edit changed, with their contents right after it.
            query: see :class:`Change`.

        Returns:
            The change that :meth:`undo` needs.
        """
        change = self._change_of(next((index for index, _, _ in rows if index < len(self)), None), query)
        for index, label, (key, value, radius) in rows:
            if index == len(self):
                self._append(key, label, value, radius)
            else:
                self._write(index, label, (key, value, radius))
        return change

    def undo(self, *changes: Change) -> None:
        """Undo the last edits, given their changes in the order of the edits."""
        for change in reversed(changes):
            for index in range(change.length, len(self)):
                self.hits.pop(index, None)
            del self.labels[change.length :]
            self._arrays.truncate(change.length)
            self._search.truncate(change.length * self.views)
            if change.index is not None:
                self._write(change.index, change.label, change.row)

    def _write(self, index: int, label: Label, row: tuple[Tensor, ...]) -> None:
        """Overwrite a key's row."""
        self.labels[index] = label
        self._arrays.write(index, *row)
        self._mark_changed(index)

    def _change_of(self, index: int | None, query: Tensor | None = None) -> Change:
        """Return the change of an edit that is about to change this key, or to add one only."""
        return Change(len(self)) if index is None else Change(len(self), *self.row(index), query)
