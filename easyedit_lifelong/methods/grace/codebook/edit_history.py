"""The history of a codebook, reconstructed from its changes: each edit's rows, input, key and decision."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.decisions import Change, Decision, Label, Match, Row


@dataclass(frozen=True)
class TrainedEdit:
    """The arguments of :meth:`.Codebook.insert` for one edit.

    Attributes:
        query: shape ``(views * key_size,)``; None if it is not known: see :class:`Change`.
        label: the edit's target tokens.
        value: the trained value, with gate and radius if the codebook stores these.
        further: the rows of the edit's further keys.
    """

    query: Tensor | None
    label: Label
    value: Tensor
    further: Sequence[Row] = ()


def rows_of(codebook: Codebook, changes: Sequence[Change], begin: int = 0) -> list[list[Row]]:
    """Return the rows that each edit changed or added, with their contents right after that edit.

    The last row of an edit is its own key: the key that answers its query.

    Args:
        codebook: the codebook.
        changes: the changes of all edits, in order.
        begin: number of the first edit to return rows for.
    """
    end = len(codebook)
    length_before = changes[begin].length if begin < len(changes) else end
    changed_keys = {change.index for change in changes[begin:] if change.index is not None}
    # Go back in time, from the present rows, undoing one change after the other.
    rows = {key: codebook.row(key) for key in changed_keys | set(range(length_before, end))}
    history: list[list[Row]] = []
    for change in reversed(changes[begin:]):
        changed = [] if change.index is None else [rows[change.index]]
        added = [rows[key] for key in range(change.length, end)]
        history.append(changed + added)
        end = change.length
        if change.row_before is not None:
            rows[change.row_before.key_index] = change.row_before
    return history[::-1]


def further_rows_of(codebook: Codebook, changes: Sequence[Change], begin: int = 0) -> list[list[Row]]:
    """Return the rows of each edit's further keys, with their contents right after that edit.

    Arguments are those of :func:`rows_of`.
    """
    changes = changes[begin:]
    if codebook.further_keys is None:
        return [[] for _ in changes]
    rows = iter(rows_of(codebook.further_keys, [further for change in changes for further in change.further]))
    return [[row for (row,) in itertools.islice(rows, len(change.further))] for change in changes]


def trained_edits(
    changes: Sequence[Change], rows: Sequence[Sequence[Row]], further: Sequence[Sequence[Row]]
) -> list[TrainedEdit]:
    """Return the trained edits, given their changes and what :func:`rows_of` and :func:`further_rows_of` return."""
    edits = []
    for change, rows_of_edit, further_rows in zip(changes, rows, further, strict=True):
        index, label, tensors = rows_of_edit[-1]
        added_key = index >= change.length
        edits.append(TrainedEdit(tensors.key if added_key else change.query, label, tensors.value, further_rows))
    return edits


def keys_of(codebook: Codebook, changes: Sequence[Change]) -> list[int]:
    """Return the index of each edit's own key: the key that it added, or else the key that it changed.

    If several edits have the same key, the key answers for the last of them.
    """
    lengths_after = [*(change.length for change in changes[1:]), len(codebook)] if changes else []
    return [
        change.length if length_after > change.length or change.index is None else change.index
        for change, length_after in zip(changes, lengths_after, strict=True)
    ]


def decision_of(change: Change, rows: Sequence[Row]) -> Decision:
    """Return the decision about an edit, inferred from its change and its rows; see :func:`rows_of`."""
    index, label, tensors = rows[-1]
    added_key = index >= change.length
    if added_key:
        return Decision.ADD if change.index is None else Decision.SPLIT
    if label != change.label:
        return Decision.SUPERSEDE
    assert change.row_before is not None
    has_grown = bool(tensors.radius > change.row_before.tensors.radius.to(tensors.radius.device))
    return Decision.EXPAND if has_grown else Decision.COVERED


def insert_again(
    codebook: Codebook, edit: TrainedEdit, decided: tuple[Decision, Match] | None = None
) -> tuple[int, Change]:
    """Insert an edit again; return the index of the key that holds it, and its change. See :meth:`.Codebook.insert`."""
    assert edit.query is not None
    device = codebook.device  # may have changed since the edit
    _, index, change = codebook.insert(edit.query.to(device), edit.label, edit.value.to(device), decided)
    return index, codebook.add_further_keys(change, edit.further)
