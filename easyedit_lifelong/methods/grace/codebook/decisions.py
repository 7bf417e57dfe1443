"""The decisions of a codebook about an edit, and the data types that describe them (arXiv 2211.11031, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from torch import Tensor

from easyedit_lifelong.methods.grace.codebook.codebook_arrays import KeyTensors

Label = tuple[int, ...]
"""The target tokens of an edit."""


class Row(NamedTuple):
    """All that a codebook stores about one key.

    Attributes:
        key_index: the key's index.
        label: the key's label.
        tensors: key, value and radius.
    """

    key_index: int
    label: Label
    tensors: KeyTensors


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
        index: the key's index; -1 if there are no keys, or none as near as it was searched for.
        distance: the distance between key and query, in units of the distance function.
    """

    index: int
    distance: float


@dataclass(frozen=True)
class Change:
    """What one edit changed in a codebook; :meth:`Codebook.undo` needs it.

    Attributes:
        length: number of keys before the edit.
        index: index of the existing key that the edit changed; None if it only added a key.
        label: the changed key's label before the edit.
        row: the changed key's row before the edit; empty if no key was changed.
        query: the edit's query. None if the edit added a key, which equals its query; and for edits saved by early
            releases, which did not store queries.
        further: what each further key of the edit changed in the codebook of further keys.
        other_names: what the key of each other name of the edit's subject changed, in order, after the edit's own key.
    """

    length: int
    index: int | None = None
    label: Label = ()
    row: KeyTensors | tuple[()] = ()
    query: Tensor | None = None
    further: tuple[Change, ...] = ()
    other_names: tuple[Change, ...] = ()

    @property
    def row_before(self) -> Row | None:
        """The changed key's row before the edit, with index and label; None if no key was changed."""
        return None if self.index is None or not self.row else Row(self.index, self.label, self.row)


def as_label(token_ids: Sequence[int]) -> Label:
    """Return the label of a target: the tuple of its token ids.

    The authors' code compares means of token ids instead. By these, permutations of a target and even unrelated targets
    can be equal.
    """
    return tuple(int(token) for token in token_ids)
