"""What each edit of a codebook did and was entered with: a codebook comes of its edits, and can be walked back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.decisions import Change, Decision, Label, Match, Row


@dataclass(frozen=True)
class Entry:
    """What an edit was entered with.

    Attributes:
        query: shape ``(key_size,)``; None if it isn't known: see :class:`Change`.
        label: its target's tokens.
        value: its trained value, shape ``(value_size,)``.
    """

    query: Tensor | None
    label: Label
    value: Tensor


def rows_of(codebook: Codebook, changes: Sequence[Change], begin: int = 0) -> list[list[Row]]:
    """Return the rows that each edit changed, as they were right after it; the key that it entered comes last.

    Args:
        codebook: the codebook.
        changes: what its edits changed, in order.
        begin: the first edit that is asked for.
    """
    length = changes[begin].length if begin < len(changes) else len(codebook)
    touched = {change.index for change in changes[begin:] if change.index is not None}
    rows = {at: codebook.row(at) for at in touched | set(range(length, len(codebook)))}
    history: list[list[Row]] = []
    end = len(codebook)
    for change in reversed(changes[begin:]):
        changed = [] if change.index is None else [rows[change.index]]
        history.append(changed + [rows[at] for at in range(change.length, end)])
        end = change.length
        if change.index is not None:
            rows[change.index] = (change.index, change.label, change.row)
    return history[::-1]


def entries_in(changes: Sequence[Change], rows: Sequence[Sequence[Row]]) -> list[Entry]:
    """Return what edits were entered with, given what each changed and its rows right after it."""
    entries = []
    for change, changed in zip(changes, rows, strict=True):
        index, label, (key, value, _) = changed[-1]
        entries.append(Entry(key if index >= change.length else change.query, label, value))
    return entries


def keys_of(codebook: Codebook, changes: Sequence[Change]) -> list[int]:
    """Return which key each edit was entered in. A key is the last one's of its edits."""
    ends = [*(change.length for change in changes), len(codebook)][1:]
    # An edit that added none has changed one.
    return [
        change.length if end > change.length or change.index is None else change.index
        for change, end in zip(changes, ends, strict=True)
    ]


def decision_of(change: Change, rows: Sequence[Row]) -> Decision:
    """Return what an edit did, given the rows that it changed as they were right after it."""
    index, label, (_, _, radius) = rows[-1]
    if index >= change.length:
        return Decision.ADD if change.index is None else Decision.SPLIT
    if label != change.label:
        return Decision.SUPERSEDE
    return Decision.EXPAND if bool(radius > change.row[2].to(radius.device)) else Decision.COVERED


def enter(codebook: Codebook, entry: Entry, decided: tuple[Decision, Match] | None = None) -> tuple[int, Change]:
    """Enter an edit again; return the key that now answers it, and what undoes it. See :meth:`Codebook.enter`."""
    assert entry.query is not None
    device = codebook.keys.device  # perhaps another by now
    _, index, change = codebook.enter(entry.query.to(device), entry.label, entry.value.to(device), decided)
    return index, change
