"""The decisions of a codebook about an edit, and the data types that describe them (arXiv 2211.11031, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from torch import Tensor

Label = tuple[int, ...]
"""The target tokens of an edit."""

Row = tuple[int, Label, tuple[Tensor, ...]]
"""A key's index, its label, and its key, value and radius."""


class Decision(Enum):
    """What an edit does to the codebook (algorithm 1).

    ``ADD`` adds a key. ``EXPAND`` expands the radius of a key with the same label. ``SPLIT`` adds a key, and divides
    the distance to a key with another label between both radii. Two decisions are not in the paper: ``COVERED``
    replaces the value only, since a key with the same label contains the query already; ``SUPERSEDE`` replaces label
    and value of a key that equals the query.
    """

    ADD = "add"
    EXPAND = "expand"
    SPLIT = "split"
    COVERED = "covered"
    SUPERSEDE = "supersede"


@dataclass(frozen=True)
class Match:
    """The key nearest to a query.

    Attributes:
        index: the key's index; -1 if there are no keys.
        distance: the distance between key and query, in units of the distance function.
    """

    index: int
    distance: float


@dataclass(frozen=True)
class Change:
    """What one edit changed in a codebook; :meth:`Codebook.undo` needs it.

    Attributes:
        length: number of keys before the edit.
        index: the existing key that the edit changed; None if it changed none.
        label: that key's label before the edit.
        row: that key's key, value and radius before the edit.
        query: the edit's query, if the edit added no key that holds it. None for edits saved by early releases, which
            did not store queries.
    """

    length: int
    index: int | None = None
    label: Label = ()
    row: tuple[Tensor, ...] = ()
    query: Tensor | None = None


def as_label(token_ids: Sequence[int]) -> Label:
    """Return the label of a target: the tuple of its token ids.

    The authors' code compares the means of token ids, for which permutations and other targets are equal.
    """
    return tuple(int(token) for token in token_ids)
