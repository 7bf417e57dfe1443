"""The history of a codebook, reconstructed from its changes: each edit's rows, input, key and decision."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.decisions import Change, Decision, Label, Match, Row


@dataclass(frozen=True)
class TrainedEdit:
    """The arguments of :meth:`.Codebook.insert` for one edit.

    Attributes:
        query: shape ``(vectors_per_key * key_size,)``; None if it is not known: see :class:`Change`.
        label: the edit's target tokens.
        value: the trained value, with gate and radius if the codebook stores these.
        further: the rows of the edit's further keys.
        other_names: the same for the key of each other name of the edit's subject.
    """

    query: Tensor | None
    label: Label
    value: Tensor
    further: Sequence[Row] = ()
    other_names: Sequence[TrainedEdit] = ()


class EditRows(NamedTuple):
    """The rows that one edit changed or added.

    Attributes:
        own: those of the edit's own key, right after that was inserted. The last row is the key itself: the key that
            answers the edit's query.
        other_names: the same for the key of each other name of the edit's subject.
    """

    own: list[Row]
    other_names: list[list[Row]]


def changes_of_keys(changes: Sequence[Change]) -> list[Change]:
    """Return the changes of single keys: of each edit's own key, followed by those of its other names."""
    return [of_key for change in changes for of_key in (change, *change.other_names)]


def rows_of(codebook: Codebook, changes: Sequence[Change], begin: int = 0) -> list[EditRows]:
    """Return the rows that each edit changed or added.

    Args:
        codebook: the codebook.
        changes: the changes of all edits, in order.
        begin: number of the first edit to return rows for.
    """
    rows = iter(_rows_of_keys(codebook, changes_of_keys(changes[begin:])))
    return [EditRows(next(rows), list(itertools.islice(rows, len(change.other_names)))) for change in changes[begin:]]


def further_rows_of(codebook: Codebook, changes: Sequence[Change], begin: int = 0) -> list[list[Row]]:
    """Return the rows of each edit's further keys, with their contents right after that edit.

    Arguments are those of :func:`rows_of`.
    """
    changes = changes[begin:]
    if codebook.further_keys is None:
        return [[] for _ in changes]
    rows = iter(_rows_of_keys(codebook.further_keys, [further for change in changes for further in change.further]))
    return [[row for (row,) in itertools.islice(rows, len(change.further))] for change in changes]


def trained_edits(
    changes: Sequence[Change], rows: Sequence[EditRows], further: Sequence[Sequence[Row]]
) -> list[TrainedEdit]:
    """Return the trained edits, given their changes and what :func:`rows_of` and :func:`further_rows_of` return."""
    edits = []
    for change, (own, other_names), further_rows in zip(changes, rows, further, strict=True):
        others = [_trained(*other) for other in zip(change.other_names, other_names, strict=True)]
        edits.append(dataclasses.replace(_trained(change, own), further=further_rows, other_names=others))
    return edits


def keys_of(codebook: Codebook, changes: Sequence[Change]) -> list[int]:
    """Return the index of each edit's own key: the key that it added, or else the key that it changed.

    If several edits have the same key, the key answers for the last of them.
    """
    return [own for own, *_ in all_keys_of(codebook, changes)]


def all_keys_of(codebook: Codebook, changes: Sequence[Change]) -> list[list[int]]:
    """Return the indices of each edit's keys: its own key, then that of each other name of its subject."""
    of_keys = changes_of_keys(changes)
    lengths_after = [*(change.length for change in of_keys[1:]), len(codebook)] if of_keys else []
    keys = (
        change.length if length_after > change.length or change.index is None else change.index
        for change, length_after in zip(of_keys, lengths_after, strict=True)
    )
    return [list(itertools.islice(keys, 1 + len(change.other_names))) for change in changes]


def decision_of(change: Change, rows: Sequence[Row]) -> Decision:
    """Return the decision about an edit, inferred from its change and the rows of its own key; see :func:`rows_of`."""
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
    others = [(other.query.to(device), other.value.to(device)) for other in edit.other_names if other.query is not None]
    return index, codebook.add_further_keys(codebook.add_other_names(change, edit.label, others), edit.further)


def _rows_of_keys(codebook: Codebook, changes: Sequence[Change]) -> list[list[Row]]:
    """Return the rows that each key's insertion changed or added, with their contents right after it.

    Args:
        codebook: the codebook.
        changes: the changes of the last keys, in order; see :func:`changes_of_keys`.
    """
    end = len(codebook)
    length_before = changes[0].length if changes else end
    changed_keys = {change.index for change in changes if change.index is not None}
    # Go back in time, from the present rows, undoing one change after the other.
    rows = {key: codebook.row(key) for key in changed_keys | set(range(length_before, end))}
    history: list[list[Row]] = []
    for change in reversed(changes):
        changed = [] if change.index is None else [rows[change.index]]
        added = [rows[key] for key in range(change.length, end)]
        history.append(changed + added)
        end = change.length
        if change.row_before is not None:
            rows[change.row_before.key_index] = change.row_before
    return history[::-1]


def _trained(change: Change, rows: Sequence[Row]) -> TrainedEdit:
    """Return the arguments that inserted one key."""
    index, label, tensors = rows[-1]
    added_key = index >= change.length
    return TrainedEdit(tensors.key if added_key else change.query, label, tensors.value)
