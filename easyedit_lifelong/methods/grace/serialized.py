"""A layer's GRACE edits as a file holds them, and as a codebook without a model."""

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
from easyedit_lifelong.methods.grace.codebook.arrays import NAMES
from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.decisions import Change, Row
from easyedit_lifelong.methods.grace.codebook.history import rows_of
from easyedit_lifelong.methods.grace.codebook.key_space import KeySpace, new_codebook
from easyedit_lifelong.methods.grace.codebook.lookup import rounding_of
from easyedit_lifelong.methods.grace.codebook.removal import without
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.shared.records import EditRecord

StoredEdit = tuple[EditRecord, list[Row], Tensor | None]
"""An edit's record, the rows that it changed as they were right after it, and its query if it added no key."""

_WHITENING, _GATE_SIZE = "whitening", "gate_size"


@dataclass
class SerializedEdits:
    """The edits of one layer.

    Attributes:
        hparams: GRACE's hyperparameters, as a YAML file holds them.
        codebook: what came of the edits.
        changes: what each edit changed.
        records: what each was asked to do.
        replay_support: whether the model can be replayed in part, up to which length; see the editor.
        space: what the keys are compared in, beyond the hyperparameters.
    """

    hparams: dict[str, Any]
    codebook: Codebook
    changes: list[Change]
    records: list[EditRecord]
    replay_support: tuple[bool | None, int]
    space: KeySpace = field(default_factory=KeySpace)

    @classmethod
    def of(cls, part: EditsPart, where: str) -> SerializedEdits:
        """Do a part's edits again.

        Raises:
            RunError: the part isn't whole.
            HyperParameterError: its hyperparameters can't be used.
        """
        hparams, edits = GraceHyperParams.from_values(part.hparams, where), _stored_edits(part, where)
        space = _stored_space(part, hparams, where)
        try:
            key_width, value_width = part.tensors["keys"].shape[1], part.tensors["values"].shape[1]
            codebook = new_codebook(hparams, key_width, value_width, space.gate_size, _rounding(part, hparams))
            changes = [codebook.redo(rows, query) for _, rows, query in edits]
        except (RuntimeError, IndexError) as error:  # tensors of other shapes
            raise RunError(f"{where}: GRACE's edits aren't whole: {error}") from error
        codebook.hits = _stored_hits(part, len(codebook), where)
        return cls(part.hparams, codebook, changes, [record for record, _, _ in edits], _replay_support_of(part), space)

    def remove(self, numbers: Collection[int]) -> None:
        """Take edits out, counted from 0, as if they had never been entered.

        Raises:
            EditError: it isn't known what a later edit was entered with.
        """
        names = [record.case_id for record in self.records]
        self.changes = without(self.codebook, self.changes, numbers, names)
        self.records = [record for n, record in enumerate(self.records) if n not in numbers]

    def part(self) -> EditsPart:
        """Return the edits ready for a file."""
        part = self._part(0, rows_of(self.codebook, self.changes), self.records)
        hits = [self.codebook.hits[at] for at in range(len(self.codebook))]
        return dataclasses.replace(part, state={"changed": part.state["changed"], "hits": hits, **part.state})

    def steps(self, begin: int) -> Iterator[EditsPart]:
        """Yield each edit from number ``begin`` on as a part, with its rows as they were right after it.

        How often keys have answered isn't in it: that changes without an edit.
        """
        for number, rows in enumerate(rows_of(self.codebook, self.changes, begin), begin):
            yield self._part(number, [rows], self.records[number : number + 1])

    def _part(self, begin: int, history: Sequence[Sequence[Row]], records: Sequence[EditRecord]) -> EditsPart:
        """Return consecutive edits as a part.

        Args:
            begin: number of the first of them.
            history: the rows that each changed, as they were right after it.
            records: their records.
        """
        changed, queries = list[dict[str, Any]](), list[Tensor]()
        for change, rows in zip(self.changes[begin : begin + len(history)], history, strict=True):
            entry: dict[str, Any] = {"keys": [at for at, _, _ in rows], "labels": [list(label) for _, label, _ in rows]}
            if change.query is not None:
                entry["query"] = len(queries)
                queries.append(change.query.to(self.codebook.keys.device))
            changed.append(entry)
        state = {
            "changed": changed,
            "rounding": self.codebook.rounding,
            "in_part": self.replay_support[0],
            "checked_length": self.replay_support[1],
        }
        if self.space.gate_size:
            state[_GATE_SIZE] = self.space.gate_size
        flat = [row for rows in history for row in rows]
        tensors = {name: torch.stack([row[n] for _, _, row in flat]) for n, name in enumerate(NAMES)}
        if queries:
            tensors["queries"] = torch.stack(queries)
        if self.space.whitening is not None and not begin:
            tensors[_WHITENING] = self.space.whitening
        return EditsPart(self.hparams, [record.to_dict() for record in records], state, tensors)


def _stored_edits(part: EditsPart, where: str) -> list[StoredEdit]:
    """Return a part's edits.

    Raises:
        RunError: the part isn't whole.
    """
    try:
        keys, values, radii = (part.tensors[name] for name in NAMES)
        queries = part.tensors.get("queries")
        taken, edits, length = 0, list[StoredEdit](), 0
        for record, change in zip(part.edits, part.state["changed"], strict=True):
            rows: list[Row] = []
            for at, label in zip(change["keys"], change["labels"], strict=True):
                if not 0 <= at <= length:
                    raise IndexError(f"key {at} of {length}")
                length = max(length, at + 1)
                rows.append((at, tuple(label), (keys[taken], values[taken], radii[taken])))
                taken += 1
            if not rows:
                raise ValueError("an edit changed no key")
            edits.append((EditRecord.from_dict(record, where), rows, _query(change.get("query"), queries, keys)))
        if not taken == len(keys) == len(values) == len(radii):
            raise IndexError(f"{taken} rows of {len(keys)}, {len(values)} and {len(radii)}")
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise RunError(f"{where}: GRACE's edits aren't whole: {error}") from error
    return edits


def _query(number: Any, queries: Tensor | None, keys: Tensor) -> Tensor | None:
    """Return a stored query; folders of the first releases have none."""
    if number is None:
        return None
    if queries is None or type(number) is not int or not 0 <= number < len(queries):
        raise IndexError(f"query {number!r} of {0 if queries is None else len(queries)}")
    if queries.shape[1:] != keys.shape[1:]:
        raise ValueError(f"queries of shape {tuple(queries.shape)}, keys of {tuple(keys.shape)}")
    return queries[number]


def _stored_space(part: EditsPart, hparams: GraceHyperParams, where: str) -> KeySpace:
    """Return what a part's keys are compared in.

    Raises:
        RunError: it isn't that of its keys, or part of it is missing.
    """
    gate_size = part.state.get(_GATE_SIZE, 0)
    try:
        space = KeySpace(gate_size, part.tensors.get(_WHITENING))
        space.check(hparams, part.tensors["keys"].shape[1], part.tensors["values"].shape[1])
    except (KeyError, IndexError, ValueError) as error:
        raise RunError(f"{where}: GRACE's edits aren't whole: {error}") from error
    return space


def _stored_hits(part: EditsPart, length: int, where: str) -> Counter[int]:
    """Return how often each key of a part has answered; none if the part doesn't say.

    Raises:
        RunError: they aren't those of its keys.
    """
    hits = part.state.get("hits")
    if hits is None:
        return Counter()
    counts = isinstance(hits, list) and all(type(count) is int and count >= 0 for count in hits)
    if not counts or len(hits) != length:
        raise RunError(f"{where}: GRACE's edits aren't whole: hits must be {length} counts, one for each key")
    return Counter({at: count for at, count in enumerate(hits) if count})


def _replay_support_of(part: EditsPart) -> tuple[bool | None, int]:
    """Return what the edits had shown of the model: whether it can be replayed in part, up to which length."""
    return part.state.get("in_part"), part.state.get("checked_length", 0)


def _rounding(part: EditsPart, hparams: GraceHyperParams) -> float:
    """Return the codebook's slack; by its dtype where the part doesn't say."""
    known = part.state.get("rounding")
    if isinstance(known, float) and 0 <= known < 1:
        return known
    named = getattr(torch, hparams.dtype or "float32", torch.float32)
    return rounding_of(named if isinstance(named, torch.dtype) else torch.float32)
