"""A codebook without some of its edits, as if they had never been entered.

Back to the first of them, and from there on every later edit enters again, by the paper's algorithm 1, with the query
and the trained value that it had. Most of these were added far from everything and are so again; that shows by the
few keys in which the two codebooks differ, without a search through all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.grace.codebook import Change, Codebook, Decision, Match, Row
from easyedit_lifelong.methods.grace.history import decision_of, enter, entries_in, keys_of, rows_of

_MARGIN, _LEAST_MARGIN = 1e-3, 1e-6
"""An edit must be clearly out of reach, relative to it, to be added without a search: rounding mustn't decide."""


def without(
    codebook: Codebook, changes: Sequence[Change], numbers: Collection[int], names: Sequence[object]
) -> list[Change]:
    """Take edits out of a codebook. All or none.

    Args:
        codebook: it is changed in place. Each key's hits stay with the edit that added it.
        changes: what its edits changed, in order.
        numbers: which edits to take out, counted from 0.
        names: what the edits are called, for messages.

    Returns:
        What the edits that are left changed.

    Raises:
        EditError: it isn't known what a later edit was entered with.
    """
    if not numbers:
        return list(changes)
    check_known(codebook, changes, numbers, names)
    begin = min(numbers)
    rows, hits, owners = rows_of(codebook, changes, begin), Counter(codebook.hits), keys_of(codebook, changes)
    for change in reversed(changes[begin:]):
        codebook.undo(change)
    kept = list(changes[:begin])
    try:
        _enter_again(codebook, changes[begin:], rows, {n - begin for n in numbers}, kept)
    except BaseException:
        for change in reversed(kept[begin:]):
            codebook.undo(change)
        for change, changed in zip(changes[begin:], rows, strict=True):
            codebook.redo(changed, change.query)
        codebook.hits = hits
        raise
    left = (n for n in range(begin, len(changes)) if n not in numbers)
    for n, index in zip(left, keys_of(codebook, kept)[begin:], strict=True):
        if owners[n] >= changes[n].length and hits[owners[n]]:  # it had added that key
            codebook.hits[index] += hits[owners[n]]
    return kept


def check_known(
    codebook: Codebook, changes: Sequence[Change], numbers: Collection[int], names: Sequence[object]
) -> None:
    """Check that it is known what every edit that came after these was entered with; see :func:`without`.

    Raises:
        EditError: it isn't.
    """
    keys = keys_of(codebook, changes)
    for n in range(min(numbers, default=len(changes)), len(changes)):
        if n not in numbers and keys[n] < changes[n].length and changes[n].query is None:
            raise EditError(
                f"the edit of case {names[n]!r} came later, and isn't known in full: it was saved before edits kept "
                "their queries. Take that one out, too, and make it anew afterwards."
            )


def _enter_again(
    codebook: Codebook, changes: Sequence[Change], rows: Sequence[Sequence[Row]], out: Collection[int],
    kept: list[Change],
) -> None:  # fmt: skip
    """Enter edits again, but for some; what they change goes to ``kept``."""
    differing = _Differing(len(codebook))
    for n, (change, before, entry) in enumerate(zip(changes, rows, entries_in(changes, rows), strict=True)):
        if n in out:
            differing.note(codebook, before, None)
            continue
        assert entry.query is not None
        decided = None
        if decision_of(change, before) is Decision.ADD and differing.out_of_reach(codebook, entry.query):
            decided = Decision.ADD, Match(-1, float("inf"))
        _, done = enter(codebook, entry, decided)
        kept.append(done)
        differing.note(codebook, before, done)


class _Differing:
    """Where the codebook with all edits and the one without some of them decide differently.

    Args:
        length: how many keys both have alike.
    """

    def __init__(self, length: int) -> None:
        self._length = length
        self._counterpart: dict[int, int] = {}
        self._with: dict[int, Tensor] = {}
        """Keys of the one with all edits, by their index there."""
        self._without: set[int] = set()
        """Indices of keys of the one without."""

    def note(self, codebook: Codebook, rows: Sequence[Row], done: Change | None) -> None:
        """Hear what an edit changed in both.

        Args:
            codebook: the one without, after the edit.
            rows: what the edit changed in the one with all edits, as it was right after it.
            done: what it changed in the one without; None if it is left out.
        """
        touched = set() if done is None else {*range(done.length, len(codebook))}
        if done is not None and done.index is not None:
            touched.add(done.index)
        # A key that the edit added to both is one and the same.
        if done is not None and done.length < len(codebook) and rows[-1][0] >= self._length:
            self._counterpart[rows[-1][0]] = len(codebook) - 1
        theirs = {self._other(at): at for at, _, _ in rows}
        if done is not None and done.index is not None and done.index not in theirs:
            at = self._back(done.index)  # changed here alone
            if at is not None:
                self._with.setdefault(at, done.row[0])
        for at, label, (key, _, radius) in rows:
            other = self._other(at)
            same = other is not None and _equal(codebook, other, label, key, radius)
            if same:
                self._with.pop(at, None)
            else:
                self._with[at] = key
            if other is not None:
                (self._without.discard if same else self._without.add)(other)
        self._without |= touched - theirs.keys()

    def out_of_reach(self, codebook: Codebook, query: Tensor) -> bool:
        """Tell whether an edit that was added is certainly added again.

        It was farther than ``eps`` and its radius from the key that was nearest. So it is still, if that key is one
        of those alike. It is also if the differing keys here are out of reach, and those there so far away that no
        key behind them can reach the query.
        """
        device = codebook.keys.device
        query = query.to(device)
        if self._without:
            here = torch.tensor(sorted(self._without), device=device)
            reach = (codebook.eps + codebook.radii[here]) * (1 + _MARGIN) + _LEAST_MARGIN
            if not bool((_distances(codebook, query, codebook.keys[here]) > reach).all()):
                return False
        if self._with and len(codebook):
            there = torch.stack([key.to(device) for key in self._with.values()])
            widest = (codebook.eps + float(codebook.radii.max())) * (1 + _MARGIN) + _LEAST_MARGIN
            return bool((_distances(codebook, query, there) > widest).all())
        return True

    def _other(self, at: int) -> int | None:
        return at if at < self._length else self._counterpart.get(at)

    def _back(self, index: int) -> int | None:
        if index < self._length:
            return index
        return next((at for at, other in self._counterpart.items() if other == index), None)


def _equal(codebook: Codebook, index: int, label: object, key: Tensor, radius: Tensor) -> bool:
    own_label, (own_key, _, own_radius) = codebook.row(index)[1:]
    return bool(own_label == label and torch.equal(own_key, key) and torch.equal(own_radius, radius))


def _distances(codebook: Codebook, query: Tensor, keys: Tensor) -> Tensor:
    if codebook.dist_fn == "cos":
        return 1 - torch.nn.functional.cosine_similarity(query.unsqueeze(0), keys, dim=-1)
    return (keys - query).norm(dim=-1)
