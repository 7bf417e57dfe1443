"""GRACE's codebook: what edits do to its keys, values, deferral radii and labels (arXiv 2211.11031, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from easyedit_lifelong.methods.grace.codebook.decisions import Change, Decision, Label, Match, Row
from easyedit_lifelong.methods.grace.codebook.lookup import StoredKeys

_SPLIT_GAP = 1e-5
"""The authors' code leaves this much between the two radii of a split."""

_SAME_GATE = 1e-3
"""Gates nearer than this are of one prompt: far more than rounding moves them, in half precision, too."""


class Codebook(StoredKeys):
    """Keys that edits add and change; see :class:`.StoredKeys`."""

    def decide(self, query: Tensor, label: Label, value: Tensor | None = None) -> tuple[Decision, Match]:
        """Return what entering this edit would do, and the nearest key that it competes with (algorithm 1).

        No key within ``eps`` plus the nearest key's radius: add one. Otherwise, with the same
        label: expand the radius if the query is outside. With another label: split the distance.

        Splitting halves the distance, which leaves a radius of nothing when the very same prompt is
        edited again. There the later edit takes the earlier one's place; the paper doesn't treat
        this case. Where there are gates, it takes the same gate as well: two prompts on one subject are told
        apart by their gates, so their edits stand side by side.

        Args:
            query: the edit's key, shape ``(views * key_size,)``.
            label: its target's tokens.
            value: its value with its gate and radius, where there are such. An edit whose gate is far from
                another's competes with it for no key: they are two facts about one subject.
        """
        match, eps, gate = self.nearest(query), self.eps, None
        if value is not None and self.own_eps:
            eps = float(value[-1])
        if value is not None and self.gate_eps is not None:
            gate = value[self._value_size :][: self.gate_size]
            if len(self) and match.distance <= eps + float(self.radii.max()):  # else there is no rival at all
                match = self._nearest_rival(query, gate, self.gate_eps)
        if match.index < 0:
            return Decision.ADD, match
        radius = float(self.radii[match.index])
        if match.distance > eps + radius:
            return Decision.ADD, match
        if self.labels[match.index] == label:
            return (Decision.EXPAND if match.distance > radius else Decision.COVERED), match
        if match.distance > self._same(query):
            return Decision.SPLIT, match
        beside = gate is not None and float(self.gate_distances(gate)[match.index]) > _SAME_GATE
        return (Decision.ADD if beside else Decision.SUPERSEDE), match

    def _nearest_rival(self, query: Tensor, gate: Tensor, gate_eps: float) -> Match:
        """Return the nearest of the keys whose gate is near enough to an edit's; of those at the query, by the gate."""
        distances, apart = self.distances(self._vectors_of(query)).amin(dim=0), self.gate_distances(gate)
        distances[apart > gate_eps] = float("inf")
        here = distances <= self._same(query)
        best = int((apart.masked_fill(~here, float("inf")) if here.any() else distances).argmin())
        nearest = float(distances[best])
        return Match(best, nearest) if nearest < float("inf") else Match(-1, nearest)

    def enter(
        self, query: Tensor, label: Label, value: Tensor, decided: tuple[Decision, Match] | None = None
    ) -> tuple[Decision, int, Change]:
        """Enter an edit whose value has been trained.

        Args:
            query: the edit's key, shape ``(views * key_size,)``.
            label: its target's tokens.
            value: its trained value, followed by its gate and its radius where there are such.
            decided: what :meth:`decide` says of it, if that is known.

        Returns:
            What was done, the index of the key that now answers the query, and what :meth:`undo` needs.
        """
        decision, match = decided or self.decide(query, label, value)
        nearest = match.index
        if decision in (Decision.ADD, Decision.SPLIT):
            change = self._before_change(nearest if decision is Decision.SPLIT else None)
            half = match.distance / 2
            radius = half if decision is Decision.SPLIT else float(value[-1]) if self.own_eps else self.eps
            if decision is Decision.SPLIT:
                self.radii[nearest] = half - _SPLIT_GAP
            return decision, self._append(query, label, value, radius), change
        change = self._before_change(nearest, query.float().clone())
        self._entries["values"][nearest] = value.float()
        self.labels[nearest] = label
        if decision is Decision.EXPAND:
            if self.eps_expand == "moving_average":
                self._entries.write_key(nearest, (self.keys[nearest].float() + query.float()) / 2)
                self._changed(nearest)
            self.radii[nearest] = match.distance
        return decision, nearest, change

    def _append(self, query: Tensor, label: Label, value: Tensor, radius: float | Tensor) -> int:
        self._entries.append(query, value, radius)
        self.labels.append(label)
        return len(self) - 1

    def row(self, index: int) -> Row:
        """Return a copy of what the codebook holds for a key."""
        return index, self.labels[index], self._entries.row(index)

    def redo(self, rows: Sequence[Row], query: Tensor | None = None) -> Change:
        """Do again what an edit did, given the rows that it changed as they were right after it.

        Args:
            rows: these rows.
            query: see :class:`Change`.

        Returns:
            What :meth:`undo` needs.
        """
        change = self._before_change(next((index for index, _, _ in rows if index < len(self)), None), query)
        for index, label, (key, value, radius) in rows:
            if index == len(self):
                self._append(key, label, value, radius)
            else:
                self._write(index, label, (key, value, radius))
        return change

    def undo(self, *changes: Change) -> None:
        """Take the last edits back, given what they changed, in the order in which they were made."""
        for change in reversed(changes):
            for index in range(change.length, len(self)):
                self.hits.pop(index, None)
            del self.labels[change.length :]
            self._entries.shorten(change.length)
            self._search.shorten(change.length * self.views)
            if change.index is not None:
                self._write(change.index, change.label, change.row)

    def _write(self, index: int, label: Label, row: tuple[Tensor, ...]) -> None:
        self.labels[index] = label
        self._entries.write(index, *row)
        self._changed(index)

    def _before_change(self, index: int | None, query: Tensor | None = None) -> Change:
        return Change(len(self)) if index is None else Change(len(self), *self.row(index), query)
