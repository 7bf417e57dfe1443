"""Joins folders of GRACE edits: the later folders' edits enter the first one's codebooks in order."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.base import Conflict, MergedEdits, MergeSource, Renamed
from easyedit_lifelong.methods.grace.codebook.decisions import Decision
from easyedit_lifelong.methods.grace.codebook.history import Entry, enter, entries_in, keys_of, rows_of
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.editor import SAME_SETTINGS
from easyedit_lifelong.methods.grace.serialized import SerializedEdits
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.models.modules import module_path


def merge(sources: Sequence[MergeSource]) -> MergedEdits:
    """Join folders: edits enter by the paper's algorithm 1, with the queries and values that they have.

    So of two edits of one prompt the later folder's stands. Edits of different layers stay apart.

    Args:
        sources: the folders, in order.

    Raises:
        RunError: a folder isn't whole, has other settings, or edits that were saved without their queries.
    """
    merging = _Merge()
    for source in sources:
        merging.join(source)
    return MergedEdits(
        [edits.part() for edits in merging.layers.values()],
        sum(len(edits.codebook) for edits in merging.layers.values()),
        merging.conflicts,
        merging.renamed,
        merging.duplicates,
    )


class _Merge:
    """The merged edits so far.

    Attributes:
        layers: the edits of each layer.
    """

    def __init__(self) -> None:
        self.layers: dict[str, SerializedEdits] = {}
        self.conflicts: list[Conflict] = []
        self.renamed: list[Renamed] = []
        self.duplicates = 0
        self._origins: dict[str, list[tuple[str, EditRecord]]] = {}
        """Of each layer's edits: the folder that it is from, and its record there."""
        self._taken: set[str] = set()

    def join(self, source: MergeSource) -> None:
        """Join a folder's edits."""
        folder, where = source.folder, source.where
        names: dict[str, str] = {}
        own: set[str] = set()
        for part in source.parts:
            edits = SerializedEdits.of(part, where)
            layer = module_path(part.hparams["inner_params"][0])
            known = self.layers.get(layer)
            if known is not None:
                self._check_settings(known, edits, where)
            duplicates = set() if known is None else self._duplicates(layer, known, edits)
            self.duplicates += len(duplicates)
            for n, record in enumerate(edits.records):
                if n not in duplicates:
                    edits.records[n] = self._renamed(folder, record, names)
                    own.add(str(edits.records[n].case_id))
            origins = self._origins.setdefault(layer, [])
            if known is None:
                self.layers[layer] = edits
                origins += [(folder, EditRecord.from_dict(edit, where)) for edit in part.edits]
            else:
                originals = [EditRecord.from_dict(edit, where) for edit in part.edits]
                self._enter(layer, known, edits, folder, originals, duplicates, where)
        self._taken |= own

    @staticmethod
    def _check_settings(known: SerializedEdits, edits: SerializedEdits, where: str) -> None:
        # Folders of before lack what came later; it is then as it was.
        before, now = (GraceHyperParams.from_values(one.hparams, where) for one in (known, edits))
        for name in SAME_SETTINGS:
            one, other = getattr(before, name), getattr(now, name)
            if one != other:
                raise RunError(f"{where}: made with {name}={other!r}; the folders before it with {name}={one!r}")
        sizes = [tuple(edits.codebook.keys.shape[1:] + edits.codebook.values.shape[1:]) for edits in (known, edits)]
        if sizes[0] != sizes[1]:
            raise RunError(f"{where}: keys and values are {sizes[1]} wide, those of the folders before it {sizes[0]}")
        if not known.space.same_as(edits.space):
            raise RunError(
                f"{where}: its keys are whitened otherwise than those of the folders before it (by other second "
                "moments), so they can't be compared. Make these edits anew upon the others', or all of them with the "
                "same file of statistics."
            )

    def _duplicates(self, layer: str, known: SerializedEdits, edits: SerializedEdits) -> set[int]:
        """Return the edits that are in already: the same request, made at the same time, entered with the same."""
        there: dict[EditRecord, list[Entry]] = {}
        for (_, record), entry in zip(self._origins[layer], _entries(known), strict=True):
            there.setdefault(record, []).append(entry)
        own = enumerate(zip(edits.records, _entries(edits), strict=True))
        return {n for n, (record, entry) in own if any(_same(entry, one) for one in there.get(record, ()))}

    def _renamed(self, folder: str, record: EditRecord, names: dict[str, str]) -> EditRecord:
        case = str(record.case_id)
        if case not in self._taken:
            return record
        if case not in names:
            name = f"{case}@{Path(folder).resolve().name}"
            again = (f"{name}-{number}" for number in range(2, 1 << 30))
            names[case] = name if name not in self._taken else next(new for new in again if new not in self._taken)
            self.renamed.append(Renamed(folder, record.case_id, names[case]))
        return dataclasses.replace(record, case_id=names[case])

    def _enter(
        self,
        layer: str,
        known: SerializedEdits,
        edits: SerializedEdits,
        folder: str,
        originals: Sequence[EditRecord],
        duplicates: set[int],
        where: str,
    ) -> None:
        """Enter a folder's edits in a layer's codebook, one after the other."""
        codebook, origins = known.codebook, self._origins[layer]
        owners = dict(zip(keys_of(codebook, known.changes), range(len(known.records)), strict=True))
        keys = keys_of(edits.codebook, edits.changes)
        for n, entry in enumerate(_entries(edits)):
            record = edits.records[n]
            if n in duplicates:
                continue
            if entry.query is None:
                raise RunError(
                    f"{where}: the edit of case {originals[n].case_id!r} isn't known in full: it was saved before "
                    "edits kept their queries. Put this folder first, or make that edit anew."
                )
            decided = codebook.decide(entry.query, entry.label, entry.value)
            decision, match = decided
            if decision is not Decision.ADD and origins[owners[match.index]][0] != folder:
                met = owners[match.index]
                self.conflicts.append(
                    Conflict(
                        layer,
                        folder,
                        record.case_id,
                        decision.value,
                        origins[met][0],
                        known.records[met].case_id,
                        match.distance,
                    )
                )
            index, change = enter(codebook, entry, decided)
            owners[index] = len(known.records)
            known.changes.append(change)
            known.records.append(record)
            origins.append((folder, originals[n]))
            if keys[n] >= edits.changes[n].length:  # it had added that key
                codebook.hits[index] += edits.codebook.hits[keys[n]]
        known.replay_support = _both(known.replay_support, edits.replay_support)


def _entries(edits: SerializedEdits) -> list[Entry]:
    return entries_in(edits.changes, rows_of(edits.codebook, edits.changes))


def _same(one: Entry, other: Entry) -> bool:
    if one.label != other.label or not torch.equal(one.value, other.value):
        return False
    return one.query is None or other.query is None or torch.equal(one.query, other.query)


def _both(one: tuple[bool | None, int], other: tuple[bool | None, int]) -> tuple[bool | None, int]:
    """Return what both have shown of the model; where they contradict, the next edit finds out again."""
    return (one[0], max(one[1], other[1])) if one[0] == other[0] else (None, 0)
