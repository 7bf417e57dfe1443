"""What an edit does to a codebook, what it did, and in which terms (arXiv 2211.11031, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from torch import Tensor

Label = tuple[int, ...]

Row = tuple[int, Label, tuple[Tensor, ...]]
"""A key's index, its label, and its key, value and radius."""


class Decision(Enum):
    """What an edit does to the codebook (the paper's algorithm 1)."""

    ADD = "add"
    EXPAND = "expand"
    SPLIT = "split"
    COVERED = "covered"
    SUPERSEDE = "supersede"


@dataclass(frozen=True)
class Match:
    """The key nearest to a query.

    Attributes:
        index: which key; -1 if there are none.
        distance: how far it is, in units of the distance function.
    """

    index: int
    distance: float


@dataclass(frozen=True)
class Change:
    """What one edit changed, for :meth:`Codebook.undo`.

    Attributes:
        length: number of keys before.
        index: the key that the edit changed, if it changed one.
        label: that key's label before.
        row: its key, value and radius before.
        query: what the edit was entered with, where it added no key that holds it. None if that isn't known: of
            edits saved before queries were.
    """

    length: int
    index: int | None = None
    label: Label = ()
    row: tuple[Tensor, ...] = ()
    query: Tensor | None = None


def as_label(token_ids: Sequence[int]) -> Label:
    """Return the label of a target: its tokens.

    (The authors' code compares the means of the token ids, which takes permutations, and much else,
    for the same answer.)
    """
    return tuple(int(token) for token in token_ids)
