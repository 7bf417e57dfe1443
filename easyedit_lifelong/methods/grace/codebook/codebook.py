"""GRACE's codebook: keys, values, deferral radii and labels (arXiv 2211.11031, section 3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.methods.grace.codebook.arrays import NAMES, Entries
from easyedit_lifelong.methods.grace.codebook.decisions import Change, Decision, Label, Match, Row
from easyedit_lifelong.methods.grace.codebook.distance import COS, between, lengths, prepared
from easyedit_lifelong.methods.grace.codebook.search import Search

_SPLIT_GAP = 1e-5
"""The authors' code leaves this much between the two radii of a split."""

_SAME_GATE = 1e-3
"""Gates nearer than this are of one prompt: far more than rounding moves them, in half precision, too."""


def rounding_of(dtype: torch.dtype) -> float:
    """Return how far an activation moves, relative to its norm, as batch and padding change."""
    return 4e-6 if dtype in (torch.float32, torch.float64) else torch.finfo(dtype).eps / 4


class Codebook(nn.Module):
    """Keys with values, deferral radii and labels.

    Keys, values and radii live on the device of the layer that they belong to, and are part of the model's
    ``state_dict``. Whatever the model's dtype, values and radii are float32, and keys to the last bit what they would
    be in float32; how they are kept is :class:`Entries`' business. Whatever writes a key tells the search of it.

    A key may be of several *views*, vectors one behind the other: what it is near to, it is near to with one of them.
    Behind a value may stand a *gate*, a second key that queries of another kind are compared with, and the radius that
    the key is to start with in place of ``eps``; a value that is entered comes with both.

    Args:
        key_size: width of a query, and of a view.
        value_size: width of a value.
        eps: radius that a new key starts with.
        dist_fn: ``euc`` or ``cos``.
        eps_expand: ``coverage`` or ``moving_average``.
        rounding: see :func:`rounding_of`, for the model's dtype.
        device: where to keep it.
        views: of a key.
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
        return self._entries.keys

    @property
    def key_views(self) -> Tensor:
        """The views of all keys, one key's after the other's, shape ``(n * views, key_size)``."""
        return self.keys.view(len(self) * self.views, -1)

    @property
    def values(self) -> Tensor:
        """The values, shape ``(n, value_size)``."""
        return self._entries.values[:, : self._value_size]

    @property
    def gates(self) -> Tensor:
        """The gates, shape ``(n, gate_size)``."""
        return self._entries.values[:, self._value_size : self._value_size + self.gate_size]

    @property
    def radii(self) -> Tensor:
        """The deferral radii, shape ``(n,)``."""
        return self._entries.radii

    @property
    def nbytes(self) -> int:
        """Bytes of memory that tensors take: those in use, those in reserve, and the search's."""
        return self._entries.nbytes + self._search.nbytes

    def distances(self, queries: Tensor) -> Tensor:
        """Return the distance of every query to every key, shape ``(batch, n)``, in float32.

        That is what :meth:`nearest` and :meth:`lookup` decide by; they look at few of the keys.
        """
        to_views = between(prepared(queries, self.dist_fn), prepared(self.key_views, self.dist_fn), self.dist_fn)
        return to_views.view(len(queries), len(self), self.views).amin(dim=2)

    def nearest(self, query: Tensor) -> Match:
        """Return the key nearest to one query, or to a key's own views: the first of equally near ones.

        Args:
            query: shape ``(key_size,)`` or ``(views * key_size,)``.
        """
        if not len(self):
            return Match(-1, float("inf"))
        distances, found = self._search.nearest(self._views_of(query), self.key_views)
        best = int(distances.argmin())
        return Match(int(found[best]) // self.views, float(distances[best]))

    def lookup(self, queries: Tensor) -> Tensor:
        """Return which key answers each query: its index, or -1 where the query is deferred.

        The nearest key answers if the query is within its radius, give or take rounding: a radius
        that was grown out to a query must hold that query in any batch.

        Args:
            queries: shape ``(batch, key_size)``, any dtype.

        Returns:
            Indices, shape ``(batch,)``.
        """
        if not len(self):
            return torch.full((len(queries),), -1, device=queries.device)
        found = self._search.answering(queries, self.key_views, self._radii_of_views, self._rounding(queries))
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
        return self._search.reached(queries, self.key_views, self._radii_of_views, self._rounding(queries))

    @property
    def _radii_of_views(self) -> Tensor:
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
            value: its value with what stands behind it, where there is such a thing. An edit whose gate is far from
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
        distances, apart = self.distances(self._views_of(query)).amin(dim=0), self.gate_distances(gate)
        distances[apart > gate_eps] = float("inf")
        here = distances <= self._same(query)
        best = int((apart.masked_fill(~here, float("inf")) if here.any() else distances).argmin())
        nearest = float(distances[best])
        return Match(best, nearest) if nearest < float("inf") else Match(-1, nearest)

    def _same(self, query: Tensor) -> float:
        """Return how far apart what two edits ask with may be for it to be the same but for rounding."""
        return max(float(self._rounding(query.unsqueeze(0))), 2 * _SPLIT_GAP)

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

    def _views_of(self, query: Tensor) -> Tensor:
        return query.view(-1, self._entries.key_size // self.views)

    def _rounding(self, queries: Tensor) -> Tensor:
        scale = (
            lengths(queries.float()).float()  # the same whatever other queries are asked
            if self.dist_fn == "euc"
            else queries.new_ones(len(queries), dtype=torch.float32)
        )
        # Under autocast, queries are rounded more than the model's own dtype says.
        return max(self.rounding, rounding_of(queries.dtype)) * scale

    def enter(
        self, query: Tensor, label: Label, value: Tensor, decided: tuple[Decision, Match] | None = None
    ) -> tuple[Decision, int, Change]:
        """Enter an edit whose value has been trained.

        Args:
            query: the edit's key, shape ``(views * key_size,)``.
            label: its target's tokens.
            value: its trained value, with its gate and its radius behind it where these are had.
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
        self._entries.values[nearest] = value.float()
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

    def _changed(self, index: int) -> None:
        for view in range(self.views):
            self._search.change(index * self.views + view)

    def _before_change(self, index: int | None, query: Tensor | None = None) -> Change:
        return Change(len(self)) if index is None else Change(len(self), *self.row(index), query)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Codebook:
        """Follow the model to another device, but never to another dtype."""
        before = self._entries.device
        self._entries.move(fn)
        if self._entries.device != before:
            self._search.forget()
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for name in NAMES:  # values with what stands behind them
            destination[prefix + name] = getattr(self._entries, name).clone()

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
