"""The rows of edits in a stored part: what each edit changed in the codebook, and its further keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.edit_stores import EditsPart
from easyedit_lifelong.methods.grace.codebook.codebook_arrays import ARRAY_NAMES, KeyTensors
from easyedit_lifelong.methods.grace.codebook.decisions import Row
from easyedit_lifelong.methods.shared.records import EditRecord

FURTHER = "further"
"""Name of an edit's further keys in the entry that says what the edit changed."""

FURTHER_NAMES = {name: f"further_{name}" for name in ARRAY_NAMES}
"""Names of the tensors of further keys in a part, by those of the codebook's tensors."""

OTHER_NAMES = "other_names"
"""Number of the following entries that belong to the same edit: those of the other names of its subject."""


@dataclass(frozen=True)
class StoredEdit:
    """One edit, as a part stores it.

    Attributes:
        record: the edit's record.
        rows: the rows that the edit changed or added, with their contents right after it.
        query: see :class:`.Change`.
        further: the rows of the edit's further keys.
        other_names: the rows and the query of the key of each other name of the edit's subject.
    """

    record: EditRecord
    rows: list[Row]
    query: Tensor | None
    further: list[Row]
    other_names: list[tuple[list[Row], Tensor | None]]


def entry_of(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the indices and labels of rows, ready for JSON."""
    return {"keys": [row.key_index for row in rows], "labels": [list(row.label) for row in rows]}


def tensors_of(rows: Iterable[Row]) -> dict[str, Tensor]:
    """Return the tensors of rows by their names in a file."""
    columns = zip(*(row.tensors for row in rows), strict=True)
    return {name: torch.stack(column) for name, column in zip(ARRAY_NAMES, columns, strict=True)}


LATER = "later_"
"""Prefix of the names of tensors of the edits that were appended to a part in columns."""


def later_edits(part: EditsPart, begin: int) -> EditsPart:
    """Return the edits that were appended to a part in columns, as a part.

    Args:
        part: the part.
        begin: the number of edits in columns.
    """
    tensors = {name.removeprefix(LATER): tensor for name, tensor in part.tensors.items() if name.startswith(LATER)}
    return EditsPart(part.hparams, part.edits[begin:], part.state, tensors)


def stored_edits(part: EditsPart, where: str, n_keys: int = 0, n_further_keys: int = 0) -> list[StoredEdit]:
    """Return a part's edits.

    Args:
        part: the part.
        where: the file that it comes from, for messages.
        n_keys: the number of keys before these edits.
        n_further_keys: the number of further keys before them.

    Raises:
        RunError: the part is incomplete or damaged.
    """
    try:
        changed = part.state["changed"]
        rows_by_edit = _stored_rows(changed, {name: part.tensors[name] for name in ARRAY_NAMES}, n_keys)
        if not all(rows_by_edit):
            raise ValueError("an edit changed no key")
        further = [entry.get(FURTHER, {"keys": [], "labels": []}) for entry in changed]
        further_tensors = {
            name: part.tensors[stored] for name, stored in FURTHER_NAMES.items() if stored in part.tensors
        }
        has_further = further_tensors or any(entry["keys"] for entry in further)
        further_by_entry = (
            _stored_rows(further, further_tensors, n_further_keys) if has_further else [[] for _ in further]
        )
        queries, keys = part.tensors.get("queries"), part.tensors["keys"]
        stored_queries = [_stored_query(entry.get("query"), queries, keys) for entry in changed]
        edits, begin = list[StoredEdit](), 0
        for edit in part.edits:
            end = begin + 1 + _number_of_other_names(changed[begin])
            others = list(zip(rows_by_edit[begin + 1 : end], stored_queries[begin + 1 : end], strict=True))
            record = EditRecord.from_dict(edit, where)
            edits.append(
                StoredEdit(record, rows_by_edit[begin], stored_queries[begin], further_by_entry[begin], others)
            )
            begin = end
        if begin != len(changed):
            raise ValueError(f"{len(changed)} entries for {begin} keys")
        return edits
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise RunError(f"{where}: GRACE's edits are incomplete or damaged: {error}") from error


def _number_of_other_names(entry: Mapping[str, Any]) -> int:
    """Return how many of the following entries belong to an entry's edit.

    Raises:
        ValueError: it is no number.
    """
    count = entry.get(OTHER_NAMES, 0)
    if type(count) is not int or count < 0:
        raise ValueError(f"{OTHER_NAMES} {count!r}")
    return count


def _stored_rows(entries: Sequence[dict[str, Any]], tensors: dict[str, Tensor], n_keys: int) -> list[list[Row]]:
    """Return the rows that each edit changed or added in one codebook.

    Args:
        entries: the indices and labels of each edit's rows.
        tensors: the tensors of all rows, by name.
        n_keys: the number of keys before these edits.

    Raises:
        KeyError: a tensor is missing.
        IndexError: an index, or the number of rows, is wrong.
        ValueError: a tensor or a label is damaged.
    """
    keys, values, radii = _stored_arrays(tensors)
    rows_by_edit = list[list[Row]]()
    n_rows = 0  # read so far
    for entry in entries:
        rows: list[Row] = []
        for key, label in zip(entry["keys"], entry["labels"], strict=True):
            # An edit changes an existing key, or adds the next one.
            if type(key) is not int or not 0 <= key <= n_keys:
                raise IndexError(f"key {key} of {n_keys}")
            if not isinstance(label, list) or not all(type(token) is int and token >= 0 for token in label):
                raise ValueError(f"label {label!r} is no list of token ids")
            n_keys = max(n_keys, key + 1)
            rows.append(Row(key, tuple(label), KeyTensors(keys[n_rows], values[n_rows], radii[n_rows])))
            n_rows += 1
        rows_by_edit.append(rows)
    if not n_rows == len(keys) == len(values) == len(radii):
        raise IndexError(f"{n_rows} rows of {len(keys)}, {len(values)} and {len(radii)}")
    return rows_by_edit


def _stored_arrays(tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return stored keys, values and radii.

    Raises:
        KeyError: one is missing.
        ValueError: one has a wrong shape or dtype, or a radius is negative or NaN.
    """
    keys, values, radii = (tensors[name] for name in ARRAY_NAMES)
    for name, dimensions, tensor in zip(ARRAY_NAMES, (2, 2, 1), (keys, values, radii), strict=True):
        if tensor.dim() != dimensions or not tensor.is_floating_point():
            raise ValueError(f"{name} of shape {tuple(tensor.shape)} and type {tensor.dtype}")
    if not bool((radii >= 0).all()):
        raise ValueError("a radius is negative or NaN")
    return keys, values, radii


def _stored_query(number: Any, queries: Tensor | None, keys: Tensor) -> Tensor | None:
    """Return the stored query with this number, shape ``(vectors_per_key * key_size,)``.

    Return None if the number is None: neither edits that added a key nor edits of early releases have a stored query.

    Raises:
        IndexError: there is no such query.
        ValueError: queries and keys have different shapes, or queries are no floating-point numbers.
    """
    if number is None:
        return None
    if queries is None or type(number) is not int or not 0 <= number < len(queries):
        raise IndexError(f"query {number!r} of {0 if queries is None else len(queries)}")
    if queries.shape[1:] != keys.shape[1:] or not queries.is_floating_point():
        raise ValueError(
            f"queries of shape {tuple(queries.shape)} and type {queries.dtype}, keys of {tuple(keys.shape)}"
        )
    return queries[number]
