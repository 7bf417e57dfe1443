"""The GRACE edits of one layer without a model, and their conversion to and from a stored part."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.edit_stores import EditsPart
from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.codebook_arrays import ARRAY_NAMES, KeyTensors
from easyedit_lifelong.methods.grace.codebook.decisions import Change, Row
from easyedit_lifelong.methods.grace.codebook.edit_history import rows_of
from easyedit_lifelong.methods.grace.codebook.key_space import KeySpace, new_codebook
from easyedit_lifelong.methods.grace.codebook.removal import remove_edits
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.training.replay_support import ReplaySupport
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.methods.shared.subject_keys.distance import rounding_of

_GATE_SIZE = "gate_size"
"""Name of the gate size in a part's state."""


@dataclass(frozen=True)
class StoredEdit:
    """One edit, as a part stores it.

    Attributes:
        record: the edit's record.
        rows: the rows that the edit changed or added, with their contents right after it.
        query: see :class:`.Change`.
    """

    record: EditRecord
    rows: list[Row]
    query: Tensor | None


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
    changes: list[Change]
    records: list[EditRecord]
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
        hparams, edits = GraceHyperParams.from_values(part.hparams, where), _stored_edits(part, where)
        key_space = _stored_key_space(part, hparams, where)
        try:
            key_width, value_width = part.tensors["keys"].shape[1], part.tensors["values"].shape[1]
            rounding = _stored_rounding(part, hparams)
            codebook = new_codebook(hparams, key_width, value_width, key_space, rounding)
            changes = [codebook.redo(edit.rows, edit.query) for edit in edits]
        except (RuntimeError, IndexError, ValueError) as error:  # from tensors of wrong shapes
            raise RunError(f"{where}: GRACE's edits are incomplete or damaged: {error}") from error
        codebook.hits = _stored_hits(part, len(codebook), where)
        records = [edit.record for edit in edits]
        return cls(part.hparams, codebook, changes, records, _stored_replay_support(part, where), key_space)

    def remove(self, numbers: Collection[int]) -> None:
        """Remove edits, as if they had never been made.

        Args:
            numbers: the edits to remove, counted from 0.

        Raises:
            EditError: the query of a later edit is not known. Then nothing is changed.
        """
        names = [record.case_id for record in self.records]
        self.changes = remove_edits(self.codebook, self.changes, numbers, names)
        self.records = [record for n, record in enumerate(self.records) if n not in numbers]

    def part(self) -> EditsPart:
        """Return all edits as one part, ready to be stored."""
        part = self._part(0, rows_of(self.codebook, self.changes), self.records)
        hits = [self.codebook.hits[key] for key in range(len(self.codebook))]
        return dataclasses.replace(part, state={"changed": part.state["changed"], "hits": hits, **part.state})

    def steps(self, begin: int) -> Iterator[EditsPart]:
        """Yield each edit from number ``begin`` on as a part, with its rows' contents right after it.

        Such parts hold no hit counts, since these change without an edit.
        """
        for number, rows in enumerate(rows_of(self.codebook, self.changes, begin), begin):
            yield self._part(number, [rows], self.records[number : number + 1])

    def _part(self, begin: int, history: Sequence[Sequence[Row]], records: Sequence[EditRecord]) -> EditsPart:
        """Return consecutive edits as a part.

        Args:
            begin: number of the first edit.
            history: the rows that each edit changed, with their contents right after it.
            records: the record of each edit.
        """
        changed, queries = list[dict[str, Any]](), list[Tensor]()
        for change, rows in zip(self.changes[begin : begin + len(history)], history, strict=True):
            entry: dict[str, Any] = {
                "keys": [row.key_index for row in rows],
                "labels": [list(row.label) for row in rows],
            }
            if change.query is not None:
                entry["query"] = len(queries)
                queries.append(change.query.to(self.codebook.keys.device))
            changed.append(entry)
        supported, checked_length = self.replay_support
        state = {
            "changed": changed,
            "rounding": self.codebook.rounding,
            "in_part": supported,
            "checked_length": checked_length,
        }
        if self.key_space.gate_size:
            state[_GATE_SIZE] = self.key_space.gate_size
        contents = [row.tensors for rows in history for row in rows]
        tensors = {
            "keys": torch.stack([row.key for row in contents]),
            "values": torch.stack([row.value for row in contents]),
            "radii": torch.stack([row.radius for row in contents]),
        }
        if queries:
            tensors["queries"] = torch.stack(queries)
        if begin == 0:
            tensors |= self.key_space.tensors()
        return EditsPart(self.hparams, [record.to_dict() for record in records], state, tensors)


def _stored_edits(part: EditsPart, where: str) -> list[StoredEdit]:
    """Return a part's edits.

    Raises:
        RunError: the part is incomplete or damaged.
    """
    try:
        keys, values, radii = _stored_arrays(part)
        queries = part.tensors.get("queries")
        edits = list[StoredEdit]()
        n_rows = n_keys = 0  # read so far
        for record, changed in zip(part.edits, part.state["changed"], strict=True):
            rows: list[Row] = []
            for key, label in zip(changed["keys"], changed["labels"], strict=True):
                # An edit changes an existing key, or adds the next one.
                if type(key) is not int or not 0 <= key <= n_keys:
                    raise IndexError(f"key {key} of {n_keys}")
                if not isinstance(label, list) or not all(type(token) is int and token >= 0 for token in label):
                    raise ValueError(f"label {label!r} is no list of token ids")
                n_keys = max(n_keys, key + 1)
                rows.append(Row(key, tuple(label), KeyTensors(keys[n_rows], values[n_rows], radii[n_rows])))
                n_rows += 1
            if not rows:
                raise ValueError("an edit changed no key")
            query = _stored_query(changed.get("query"), queries, keys)
            edits.append(StoredEdit(EditRecord.from_dict(record, where), rows, query))
        if not n_rows == len(keys) == len(values) == len(radii):
            raise IndexError(f"{n_rows} rows of {len(keys)}, {len(values)} and {len(radii)}")
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise RunError(f"{where}: GRACE's edits are incomplete or damaged: {error}") from error
    return edits


def _stored_arrays(part: EditsPart) -> tuple[Tensor, Tensor, Tensor]:
    """Return a part's keys, values and radii.

    Raises:
        KeyError: one is missing.
        ValueError: one has a wrong shape or dtype, or a radius is negative.
    """
    keys, values, radii = (part.tensors[name] for name in ARRAY_NAMES)
    for name, dimensions, tensor in zip(ARRAY_NAMES, (2, 2, 1), (keys, values, radii), strict=True):
        if tensor.dim() != dimensions or not tensor.is_floating_point():
            raise ValueError(f"{name} of shape {tuple(tensor.shape)} and type {tensor.dtype}")
    if bool((radii < 0).any()):
        raise ValueError("a radius is negative")
    return keys, values, radii


def _stored_query(number: Any, queries: Tensor | None, keys: Tensor) -> Tensor | None:
    """Return the stored query with this number, shape ``(views * key_size,)``.

    Return None if the number is None: neither edits that added a key nor edits of early releases have a stored query.

    Raises:
        IndexError: there is no such query.
        ValueError: queries and keys have different shapes.
    """
    if number is None:
        return None
    if queries is None or type(number) is not int or not 0 <= number < len(queries):
        raise IndexError(f"query {number!r} of {0 if queries is None else len(queries)}")
    if queries.shape[1:] != keys.shape[1:]:
        raise ValueError(f"queries of shape {tuple(queries.shape)}, keys of {tuple(keys.shape)}")
    return queries[number]


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
