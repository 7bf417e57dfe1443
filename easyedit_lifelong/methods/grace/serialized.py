"""The GRACE edits of one layer without a model, and their conversion to and from a stored part."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterator, MutableSequence, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.lazy_list import LazyList
from easyedit_lifelong.methods.edit_stores import EditsPart, are_many
from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.columns import LENGTHS, columns_of, read_columns
from easyedit_lifelong.methods.grace.codebook.decisions import Change, Row
from easyedit_lifelong.methods.grace.codebook.edit_history import EditRows, further_rows_of, rows_of
from easyedit_lifelong.methods.grace.codebook.key_space import KeySpace, new_codebook
from easyedit_lifelong.methods.grace.codebook.removal import remove_edits
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.stored_rows import (
    FURTHER,
    FURTHER_NAMES,
    OTHER_NAMES,
    entry_of,
    later_edits,
    stored_edits,
    tensors_of,
)
from easyedit_lifelong.methods.grace.training.replay_support import ReplaySupport
from easyedit_lifelong.methods.shared.records import EditRecord, remove_records
from easyedit_lifelong.methods.shared.subject_keys.distance import rounding_of

_GATE_SIZE = "gate_size"
"""Name of the gate size in a part's state."""


@dataclass
class SerializedEdits:
    """The edits of one layer, without a model.

    Attributes:
        hparams: GRACE's hyperparameters, with the keys of a YAML file.
        codebook: the codebook with all edits.
        changes: what each edit changed in the codebook, in order.
        records: the record of each edit, in the same order.
        replay_support: what is known about partial passes of the model.
        key_space: the part of the key space that the hyperparameters do not define.
    """

    hparams: dict[str, Any]
    codebook: Codebook
    changes: MutableSequence[Change]
    records: list[EditRecord] | LazyList[EditRecord]
    replay_support: ReplaySupport
    key_space: KeySpace = field(default_factory=KeySpace)

    @classmethod
    def of(cls, part: EditsPart, where: str) -> SerializedEdits:
        """Return the edits of a stored part.

        Args:
            part: the edits of one layer.
            where: the file that the part comes from, for messages.

        Raises:
            RunError: the part is incomplete or damaged.
            HyperParameterError: its hyperparameters can't be used.
        """
        hparams, in_columns = GraceHyperParams.from_values(part.hparams, where), LENGTHS in part.tensors
        edits = [] if in_columns else stored_edits(part, where)
        key_space = _stored_key_space(part, hparams, where)
        try:
            key_width, value_width = part.tensors["keys"].shape[1], part.tensors["values"].shape[1]
            rounding = _stored_rounding(part, hparams)
            codebook = new_codebook(hparams, key_width, value_width, key_space, rounding)
            changes: MutableSequence[Change]
            if in_columns:
                changes = read_columns(codebook, part.tensors)
                if "changed" in part.state:
                    further = codebook.further_keys
                    later = later_edits(part, len(changes))
                    edits = stored_edits(later, where, len(codebook), 0 if further is None else len(further))
            else:
                changes = []
            for edit in edits:
                changes.append(codebook.redo(edit.rows, edit.query, edit.further, edit.other_names))
            _check_count(part, changes)
        except (RuntimeError, IndexError, KeyError, TypeError, ValueError) as error:  # from tensors of wrong shapes
            raise RunError(f"{where}: GRACE's edits are incomplete or damaged: {error}") from error
        if not in_columns:
            codebook.hits = _stored_hits(part, len(codebook), where)
        records = _lazy_records(part, where) if in_columns else [edit.record for edit in edits]
        return cls(part.hparams, codebook, changes, records, _stored_replay_support(part, where), key_space)

    def remove(self, numbers: Collection[int]) -> None:
        """Remove edits, as if they had never been made.

        Args:
            numbers: the edits to remove, counted from 0.

        Raises:
            EditError: the query of a later edit is not known. Then nothing is changed.
        """
        names = LazyList(len(self.records), lambda number: self.records[number].case_id)
        remove_edits(self.codebook, self.changes, numbers, names)
        remove_records(self.records, numbers)

    def part(self) -> EditsPart:
        """Return all edits as one part, ready to be stored: many edits in columns, a few as one entry for each."""
        if are_many(len(self.records)):
            edits = LazyList(len(self.records), lambda number: self.records[number].to_dict())
            tensors = columns_of(self.codebook, self.changes) | self.key_space.tensors()
            return EditsPart(self.hparams, edits, self._state(), tensors)
        further = further_rows_of(self.codebook, self.changes)
        part = self._part(0, rows_of(self.codebook, self.changes), further, self.records)
        hits = [self.codebook.hits[key] for key in range(len(self.codebook))]
        return dataclasses.replace(part, state={"changed": part.state["changed"], "hits": hits, **part.state})

    def steps(self, begin: int) -> Iterator[EditsPart]:
        """Yield each edit from number ``begin`` on as a part, with its rows' contents right after it.

        Such parts hold no hit counts, since these change without an edit.
        """
        history = rows_of(self.codebook, self.changes, begin), further_rows_of(self.codebook, self.changes, begin)
        for number, (rows, further) in enumerate(zip(*history, strict=True), begin):
            yield self._part(number, [rows], [further], self.records[number : number + 1])

    def _part(
        self,
        begin: int,
        history: Sequence[EditRows],
        further: Sequence[Sequence[Row]],
        records: Sequence[EditRecord],
    ) -> EditsPart:
        """Return consecutive edits as a part.

        Args:
            begin: number of the first edit.
            history: the rows that each edit changed, with their contents right after it.
            further: the rows of each edit's further keys.
            records: the record of each edit.
        """
        changed, queries = list[dict[str, Any]](), list[Tensor]()
        changes = self.changes[begin : begin + len(history)]
        for change, rows, further_rows in zip(changes, history, further, strict=True):
            entries = [entry_of(rows_of_key) for rows_of_key in (rows.own, *rows.other_names)]
            if further_rows:
                entries[0][FURTHER] = entry_of(further_rows)
            if rows.other_names:
                entries[0][OTHER_NAMES] = len(rows.other_names)
            for entry, of_key in zip(entries, (change, *change.other_names), strict=True):
                if of_key.query is not None:
                    entry["query"] = len(queries)
                    queries.append(of_key.query.to(self.codebook.device))
            changed += entries
        tensors = tensors_of(row for own, others in history for rows in (own, *others) for row in rows)
        if any(further):
            of_further = tensors_of(row for rows in further for row in rows)
            tensors |= {FURTHER_NAMES[name]: tensor for name, tensor in of_further.items()}
        if queries:
            tensors["queries"] = torch.stack(queries)
        if begin == 0:
            tensors |= self.key_space.tensors()
        state = {"changed": changed, **self._state()}
        return EditsPart(self.hparams, [record.to_dict() for record in records], state, tensors)

    def _state(self) -> dict[str, Any]:
        """Return what a part says about its model and its key space."""
        supported, checked_length = self.replay_support
        state = {"rounding": self.codebook.rounding, "in_part": supported, "checked_length": checked_length}
        return state | ({_GATE_SIZE: self.key_space.gate_size} if self.key_space.gate_size else {})


def _check_count(part: EditsPart, changes: Sequence[Change]) -> None:
    """Check that a part has a record for each change.

    Raises:
        ValueError: it has not.
    """
    if len(part.edits) != len(changes):
        raise ValueError(f"{len(part.edits)} records of {len(changes)} edits")


def _lazy_records(part: EditsPart, where: str) -> LazyList[EditRecord]:
    """Return the records of a part's edits, each of which is read when it is needed."""
    return LazyList(len(part.edits), lambda number: EditRecord.from_dict(part.edits[number], where))


def _stored_key_space(part: EditsPart, hparams: GraceHyperParams, where: str) -> KeySpace:
    """Return what a part says about its key space.

    Raises:
        RunError: they do not fit the part's keys, values or hyperparameters.
    """
    try:
        key_space = KeySpace.of_tensors(part.state.get(_GATE_SIZE, 0), part.tensors)
        key_space.check(hparams, part.tensors["keys"].shape[1], part.tensors["values"].shape[1])
    except (KeyError, IndexError, ValueError) as error:
        raise RunError(f"{where}: GRACE's edits are incomplete or damaged: {error}") from error
    return key_space


def _stored_hits(part: EditsPart, length: int, where: str) -> Counter[int]:
    """Return the hits of each key of a part; empty if the part holds none.

    Raises:
        RunError: they are not one count for each key.
    """
    hits = part.state.get("hits")
    if hits is None:
        return Counter()
    valid = isinstance(hits, list) and all(type(count) is int and count >= 0 for count in hits)
    if not valid or len(hits) != length:
        raise RunError(
            f"{where}: GRACE's edits are incomplete or damaged: hits must be {length} counts, one for each key"
        )
    return Counter({key: count for key, count in enumerate(hits) if count})


def _stored_replay_support(part: EditsPart, where: str) -> ReplaySupport:
    """Return what a part says about partial passes of its model.

    Raises:
        RunError: it is damaged.
    """
    supported, length = part.state.get("in_part"), part.state.get("checked_length", 0)
    if supported not in (None, True, False) or type(length) is not int or length < 0:
        raise RunError(
            f"{where}: GRACE's edits are incomplete or damaged: in_part {supported!r}, checked_length {length!r}"
        )
    return ReplaySupport(supported, length)


def _stored_rounding(part: EditsPart, hparams: GraceHyperParams) -> float:
    """Return a part's allowance for rounding; if it holds none, that of its dtype.

    Raises:
        ValueError: it is damaged.
    """
    rounding = part.state.get("rounding")
    if rounding is not None:
        if not isinstance(rounding, float) or not 0 <= rounding < 1:
            raise ValueError(f"rounding {rounding!r}")
        return rounding
    dtype = getattr(torch, hparams.dtype or "float32", torch.float32)
    return rounding_of(dtype if isinstance(dtype, torch.dtype) else torch.float32)
