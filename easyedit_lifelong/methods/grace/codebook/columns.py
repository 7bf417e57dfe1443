"""A codebook and the changes of its edits as columns of tensors, which can be opened without reading every edit.

Each column is a tensor with one entry for each key, change or label token. An edit is one change, and one more for
each other name of its subject. The rows that keys had before they were changed, and the queries of changes that added
no key, are in tensors of their own, beside the numbers of these changes. The columns of the codebook of further keys
have the prefix ``further_``.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, MutableSequence, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from easyedit_lifelong.lazy_list import LazyList
from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.codebook_arrays import ARRAY_NAMES, KeyTensors
from easyedit_lifelong.methods.grace.codebook.decisions import Change, Label
from easyedit_lifelong.methods.grace.codebook.edit_history import changes_of_keys
from easyedit_lifelong.methods.shared.subject_keys.distance import COS

LENGTHS = "change_lengths"
"""Name of the column with the number of keys before each change. Every codebook in columns has it."""

_NAMES = "other_name_counts"
"""Name of the column with the number of other names of each edit's subject, if any edit has some."""

_FURTHER = "further_"
_EARLIER = {name: f"earlier_{name}" for name in ARRAY_NAMES}


def columns_of(codebook: Codebook, changes: Sequence[Change]) -> dict[str, Tensor]:
    """Return the columns of a codebook, by name.

    Args:
        codebook: the codebook, with at least one key.
        changes: what each edit changed in it, in order.
    """
    lengths, further_counts, further = list[int](), list[int](), list[Change]()
    changed, queried = list[tuple[int, Change]](), list[tuple[int, Tensor]]()
    for number, change in enumerate(changes_of_keys(changes)):
        lengths.append(change.length)
        further_counts.append(len(change.further))
        further += change.further
        if change.index is not None:
            changed.append((number, change))
        if change.query is not None:
            queried.append((number, change.query.to(codebook.device)))
    columns = codebook.tensors() | _label_columns("", codebook.labels) | {LENGTHS: torch.tensor(lengths)}
    if len(lengths) > len(changes):
        columns[_NAMES] = torch.tensor([len(change.other_names) for change in changes])
    if codebook.hits:
        columns["hit_keys"] = torch.tensor(list(codebook.hits))
        columns["hit_counts"] = torch.tensor(list(codebook.hits.values()))
    if changed:
        columns["changed_edits"] = torch.tensor([number for number, _ in changed])
        columns["changed_keys"] = torch.tensor([change.index for _, change in changed])
        columns |= _label_columns("earlier_", [change.label for _, change in changed])
        rows = zip(*(change.row for _, change in changed), strict=True)
        columns |= {
            name: torch.stack([tensor.to(codebook.device) for tensor in column])
            for name, column in zip(_EARLIER.values(), rows, strict=True)
        }
    if queried:
        columns["query_edits"] = torch.tensor([number for number, _ in queried])
        columns["queries"] = torch.stack([query for _, query in queried])
    if codebook.further_keys is not None:
        of_further = columns_of(codebook.further_keys, further)
        columns |= {_FURTHER + name: column for name, column in of_further.items()}
        columns["further_counts"] = torch.tensor(further_counts)
    return columns


def read_columns(codebook: Codebook, columns: Mapping[str, Tensor]) -> MutableSequence[Change]:
    """Fill an empty codebook from its columns; return the changes of its edits, which are decoded when they are read.

    Args:
        codebook: an empty codebook of the right widths.
        columns: what :func:`columns_of` returned; other tensors are ignored.

    Raises:
        KeyError: a column is missing.
        ValueError: the columns do not fit each other.
    """
    lengths = columns[LENGTHS]
    count = len(columns["keys"])
    _check_arrays(codebook, columns)
    _check(bool((lengths.diff() >= 0).all()) and 0 <= int(lengths.min()) <= int(lengths.max()) <= count, LENGTHS)
    codebook.adopt(columns, _labels("", columns, count))
    if "hit_keys" in columns:
        codebook.hits = Counter(dict(zip(columns["hit_keys"].tolist(), columns["hit_counts"].tolist(), strict=True)))
        _check(all(0 <= key < count for key in codebook.hits), "hit_keys")
    read_change = _ChangeReader(columns, lengths)
    if "further_counts" in columns:
        own = {name.removeprefix(_FURTHER): column for name, column in columns.items() if name.startswith(_FURTHER)}
        codebook.further_keys = Codebook(
            own["keys"].shape[1], own["values"].shape[1], eps=0.0, dist_fn=COS, rounding=codebook.rounding
        )
        read_change.further = read_columns(codebook.further_keys, own)
        read_change.further_ends = columns["further_counts"].cumsum(0)
        _check(int(read_change.further_ends[-1]) == len(read_change.further), "further_counts")
    of_keys = LazyList(len(lengths), read_change)
    return of_keys if _NAMES not in columns else _with_other_names(of_keys, columns[_NAMES])


def _with_other_names(of_keys: Sequence[Change], counts: Tensor) -> LazyList[Change]:
    """Return the changes of edits, given those of their keys and the number of other names of each edit's subject.

    Raises:
        ValueError: the numbers do not fit.
    """
    ends = (counts + 1).cumsum(0)
    _check(len(ends) > 0 and bool((counts >= 0).all()) and int(ends[-1]) == len(of_keys), _NAMES)

    def change(number: int) -> Change:
        own, *others = of_keys[int(ends[number - 1]) if number else 0 : int(ends[number])]
        return dataclasses.replace(own, other_names=tuple(others))

    return LazyList(len(ends), change)


class _ChangeReader:
    """Decodes a change from columns.

    Args:
        columns: the columns.
        lengths: the number of keys before each change, shape ``(changes,)``.

    Attributes:
        further: what each further key changed in the codebook of further keys.
        further_ends: the number of further keys of the changes up to each change, shape ``(changes,)``.
    """

    def __init__(self, columns: Mapping[str, Tensor], lengths: Tensor) -> None:
        self.further: Sequence[Change] = ()
        self.further_ends = torch.zeros(0)
        self._lengths = lengths
        none = lengths[:0]
        changed, self._keys = columns.get("changed_edits", none), columns.get("changed_keys", none)
        query_edits, self._queries = columns.get("query_edits", none), columns.get("queries", none)
        for edits in (changed, query_edits):
            _check(bool((edits.diff() > 0).all() and ((edits >= 0) & (edits < len(lengths))).all()), "numbers of edits")
        _check(len(query_edits) == len(self._queries), "queries")
        _check(len(changed) == len(self._keys), "changed_keys")
        _check(bool((self._keys >= 0).all() and (self._keys < lengths[changed]).all()), "changed_keys")
        self._labels = _labels("earlier_", columns, len(changed)) if len(changed) else []
        self._rows = [columns[name] for name in _EARLIER.values()] if len(changed) else []
        _check(all(len(rows) == len(changed) for rows in self._rows), "earlier rows")
        self._changed, self._query_edits = changed.numpy(), query_edits.numpy()

    def __call__(self, number: int) -> Change:
        """Return a change."""
        index, label, query, further = None, Label(), None, tuple[Change, ...]()
        row: KeyTensors | tuple[()] = ()
        if (place := _place_of(self._changed, number)) is not None:
            index, label = int(self._keys[place]), self._labels[place]
            row = KeyTensors(*(rows[place] for rows in self._rows))
        if (place := _place_of(self._query_edits, number)) is not None:
            query = self._queries[place]
        if len(self.further_ends):
            begin = int(self.further_ends[number - 1]) if number else 0
            further = tuple(self.further[begin : int(self.further_ends[number])])
        return Change(int(self._lengths[number]), index, label, row, query, further)


def _place_of(numbers: NDArray[np.int64], number: int) -> int | None:
    """Return the place of a number in a sorted column; None if it isn't there."""
    place = int(numbers.searchsorted(number)) if len(numbers) else 0
    return place if place < len(numbers) and int(numbers[place]) == number else None


def _label_columns(prefix: str, labels: Iterable[Label]) -> dict[str, Tensor]:
    """Return the columns of labels: all tokens, and the number of tokens up to the end of each label."""
    labels = list(labels)
    return {
        f"{prefix}label_tokens": torch.tensor(list(itertools.chain.from_iterable(labels)), dtype=torch.int64),
        f"{prefix}label_ends": torch.tensor(list(map(len, labels)), dtype=torch.int64).cumsum(0),
    }


def _labels(prefix: str, columns: Mapping[str, Tensor], count: int) -> LazyList[Label]:
    """Return the labels that :func:`_label_columns` stored.

    Raises:
        ValueError: they are not the labels of ``count`` keys.
    """
    tokens, ends = columns[f"{prefix}label_tokens"], columns[f"{prefix}label_ends"]
    _check(len(ends) == count and bool((ends.diff() >= 0).all()) and int(ends[-1]) == len(tokens), f"{prefix}labels")

    def label(number: int) -> Label:
        begin = int(ends[number - 1]) if number else 0
        return tuple(tokens[begin : int(ends[number])].tolist())

    return LazyList(count, label)


def _check_arrays(codebook: Codebook, columns: Mapping[str, Tensor]) -> None:
    """Check that keys, values and radii fit a codebook and each other; the numbers of keys and values are not read.

    Raises:
        ValueError: they do not fit.
    """
    keys, values, radii = (columns[name] for name in ARRAY_NAMES)
    widths = codebook.key_width, codebook.values.shape[1] + codebook.gate_size + codebook.per_edit_eps
    _check((keys.shape[1], values.shape[1]) == widths and keys.is_floating_point(), "widths")
    _check(len(keys) == len(values) == len(radii) > 0 and radii.dim() == 1, "lengths")
    _check(values.dtype == radii.dtype == torch.float32, "dtypes")
    _check(bool((radii >= 0).all() and radii.isfinite().all()), "radii")


def _check(holds: bool, what: str) -> None:
    """Raise a ValueError that names what does not fit, if a condition does not hold."""
    if not holds:
        raise ValueError(f"the columns of the edits do not fit each other: {what}")
