"""The edits of a codebook, reconstructed from their changes: rows after each edit, inputs, keys and decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.decisions import Change, Decision, Label, Match, Row


@dataclass(frozen=True)
class TrainedEdit:
    """The inputs of :meth:`Codebook.enter` for one edit.

    Attributes:
        query: shape ``(views * key_size,)``; None if it is not known: see :class:`Change`.
        label: the edit's target tokens.
        value: the trained value, with gate and radius if the codebook stores these.
    """

    query: Tensor | None
    label: Label
    value: Tensor


def rows_of(codebook: Codebook, changes: Sequence[Change], begin: int = 0) -> list[list[Row]]:
    """Return the rows that each edit changed, with their contents right after it; the edit's own key comes last.

    Args:
        codebook: the codebook.
        changes: the changes of all edits, in order.
        begin: number of the first edit to return rows for.
    """
    length = changes[begin].length if begin < len(changes) else len(codebook)
    changed_keys = {change.index for change in changes[begin:] if change.index is not None}
    rows = {key: codebook.row(key) for key in changed_keys | set(range(length, len(codebook)))}
    history: list[list[Row]] = []
    end = len(codebook)
    for change in reversed(changes[begin:]):
        changed = [] if change.index is None else [rows[change.index]]
        history.append(changed + [rows[key] for key in range(change.length, end)])
        end = change.length
        if change.index is not None:
            rows[change.index] = (change.index, change.label, change.row)
    return history[::-1]


def trained_edits(changes: Sequence[Change], rows: Sequence[Sequence[Row]]) -> list[TrainedEdit]:
    """Return the inputs of edits, given their changes and the rows that :func:`rows_of` returns for them."""
    edits = []
    for change, changed in zip(changes, rows, strict=True):
        index, label, (key, value, _) = changed[-1]
        edits.append(TrainedEdit(key if index >= change.length else change.query, label, value))
    return edits


def keys_of(codebook: Codebook, changes: Sequence[Change]) -> list[int]:
    """Return the index of the key that each edit added or changed.

    If several edits have the same key, it answers for the last of them.
    """
    ends = [*(change.length for change in changes), len(codebook)][1:]
    return [
        change.length if end > change.length or change.index is None else change.index
        for change, end in zip(changes, ends, strict=True)
    ]


def decision_of(change: Change, rows: Sequence[Row]) -> Decision:
    """Return the decision that an edit's change and its rows right after it show."""
    index, label, (_, _, radius) = rows[-1]
    if index >= change.length:
        return Decision.ADD if change.index is None else Decision.SPLIT
    if label != change.label:
        return Decision.SUPERSEDE
    return Decision.EXPAND if bool(radius > change.row[2].to(radius.device)) else Decision.COVERED


def insert_again(
    codebook: Codebook, edit: TrainedEdit, decided: tuple[Decision, Match] | None = None
) -> tuple[int, Change]:
    """Insert an edit again; return the index of the key that answers it, and its change. See :meth:`Codebook.enter`."""
    assert edit.query is not None
    device = codebook.keys.device  # may have changed since the edit
    _, index, change = codebook.enter(edit.query.to(device), edit.label, edit.value.to(device), decided)
    return index, change
