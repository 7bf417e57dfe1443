"""Merge folders of GRACE edits: insert the edits of later folders into the codebooks of the first one, in order."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import torch

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.base import Conflict, MergedEdits, MergeSource, Renamed
from easyedit_lifelong.methods.grace.codebook.decisions import Decision
from easyedit_lifelong.methods.grace.codebook.edit_history import (
    TrainedEdit,
    insert_again,
    keys_of,
    rows_of,
    trained_edits,
)
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.editor import SAME_SETTINGS
from easyedit_lifelong.methods.grace.serialized import SerializedEdits
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.models.modules import module_path


def merge(sources: Sequence[MergeSource]) -> MergedEdits:
    """Merge folders: insert edits by algorithm 1 (arXiv 2211.11031), with their stored queries and values.

    So of two edits of one prompt, the edit of the later folder stays. Every layer has its own codebook.

    Args:
        sources: the folders, in order.

    Raises:
        RunError: a folder is incomplete or damaged, was made with other settings, or holds edits without their queries.
    """
    merging = _Merge()
    for source in sources:
        merging.add(source)
    return MergedEdits(
        [edits.part() for edits in merging.layers.values()],
        sum(len(edits.codebook) for edits in merging.layers.values()),
        merging.conflicts,
        merging.renamed,
        merging.duplicates,
    )


class _Merge:
    """The edits merged so far.

    Attributes:
        layers: the merged edits of each layer, by its path.
        conflicts: edits of later folders that changed a key of an earlier folder.
        renamed: edits whose case_id an earlier folder uses, with their new case_ids.
        duplicates: number of edits skipped because an earlier folder holds them.
    """

    def __init__(self) -> None:
        self.layers: dict[str, SerializedEdits] = {}
        self.conflicts: list[Conflict] = []
        self.renamed: list[Renamed] = []
        self.duplicates = 0
        self._origins: dict[str, list[tuple[str, EditRecord]]] = {}
        """The folder of each merged edit and its record there, by layer."""
        self._case_ids: set[str] = set()

    def add(self, source: MergeSource) -> None:
        """Merge a folder's edits."""
        folder, where = source.folder, source.where
        new_names: dict[str, str] = {}
        case_ids: set[str] = set()
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
                    edits.records[n] = self._renamed(folder, record, new_names)
                    case_ids.add(str(edits.records[n].case_id))
            originals = [EditRecord.from_dict(edit, where) for edit in part.edits]
            origins = self._origins.setdefault(layer, [])
            if known is None:
                self.layers[layer] = edits
                origins += [(folder, record) for record in originals]
            else:
                self._insert(layer, known, edits, folder, originals, duplicates, where)
        self._case_ids |= case_ids

    @staticmethod
    def _check_settings(known: SerializedEdits, edits: SerializedEdits, where: str) -> None:
        """Check that a folder's edits fit into the merged codebook of their layer.

        Raises:
            RunError: settings, widths or whitening differ.
        """
        # Old folders lack settings of later releases; read as hyperparameters, they have the defaults.
        first, second = (GraceHyperParams.from_values(one.hparams, where) for one in (known, edits))
        for name in SAME_SETTINGS:
            expected, value = getattr(first, name), getattr(second, name)
            if value != expected:
                raise RunError(f"{where}: made with {name}={value!r}; the folders before it with {name}={expected!r}")
        expected, widths = (
            tuple(one.codebook.keys.shape[1:] + one.codebook.values.shape[1:]) for one in (known, edits)
        )
        if widths != expected:
            raise RunError(f"{where}: keys and values are {widths} wide, those of the folders before it {expected}")
        if not known.space.same_as(edits.space):
            raise RunError(
                f"{where}: its keys are whitened otherwise than those of the folders before it (by other second "
                "moments), so they can't be compared. Make these edits again on a model with the others' edits, or "
                "make all of them with the same file of statistics."
            )

    def _duplicates(self, layer: str, known: SerializedEdits, edits: SerializedEdits) -> set[int]:
        """Return the numbers of edits that are merged already: equal record, label, value and query."""
        merged: dict[EditRecord, list[TrainedEdit]] = {}
        for (_, record), edit in zip(self._origins[layer], _trained_edits(known), strict=True):
            merged.setdefault(record, []).append(edit)
        candidates = enumerate(zip(edits.records, _trained_edits(edits), strict=True))
        return {
            n for n, (record, edit) in candidates if any(_are_equal(edit, other) for other in merged.get(record, ()))
        }

    def _renamed(self, folder: str, record: EditRecord, new_names: dict[str, str]) -> EditRecord:
        """Return an edit's record, with a new case_id if an earlier folder uses the old one."""
        case = str(record.case_id)
        if case not in self._case_ids:
            return record
        if case not in new_names:
            name = f"{case}@{Path(folder).resolve().name}"
            candidates = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
            new_names[case] = next(candidate for candidate in candidates if candidate not in self._case_ids)
            self.renamed.append(Renamed(folder, record.case_id, new_names[case]))
        return dataclasses.replace(record, case_id=new_names[case])

    def _insert(
        self,
        layer: str,
        known: SerializedEdits,
        edits: SerializedEdits,
        folder: str,
        originals: Sequence[EditRecord],
        duplicates: set[int],
        where: str,
    ) -> None:
        """Insert a folder's edits into the merged codebook of a layer, in order.

        Args:
            layer: path of the layer.
            known: the merged edits of the layer.
            edits: the folder's edits, with their new case_ids.
            folder: the folder.
            originals: the folder's records, with their old case_ids.
            duplicates: numbers of the edits to skip.
            where: the folder's name in messages.

        Raises:
            RunError: an edit was saved without its query.
        """
        codebook, origins = known.codebook, self._origins[layer]
        owners = dict(zip(keys_of(codebook, known.changes), range(len(known.records)), strict=True))
        keys = keys_of(edits.codebook, edits.changes)
        for n, edit in enumerate(_trained_edits(edits)):
            record = edits.records[n]
            if n in duplicates:
                continue
            if edit.query is None:
                raise RunError(
                    f"{where}: the edit of case {originals[n].case_id!r} isn't known in full: it was saved before "
                    "edits kept their queries. Put this folder first, or make that edit again."
                )
            decision, match = codebook.decide(edit.query, edit.label, edit.value)
            if decision is not Decision.ADD and origins[owners[match.index]][0] != folder:
                owner = owners[match.index]
                self.conflicts.append(
                    Conflict(
                        layer,
                        folder,
                        record.case_id,
                        decision.value,
                        origins[owner][0],
                        known.records[owner].case_id,
                        match.distance,
                    )
                )
            index, change = insert_again(codebook, edit, (decision, match))
            owners[index] = len(known.records)
            known.changes.append(change)
            known.records.append(record)
            origins.append((folder, originals[n]))
            added_key = keys[n] >= edits.changes[n].length
            if added_key:
                codebook.hits[index] += edits.codebook.hits[keys[n]]
        known.replay_support = _merged_replay_support(known.replay_support, edits.replay_support)


def _trained_edits(edits: SerializedEdits) -> list[TrainedEdit]:
    """Return queries, labels and values of the edits."""
    return trained_edits(edits.changes, rows_of(edits.codebook, edits.changes))


def _are_equal(edit: TrainedEdit, other: TrainedEdit) -> bool:
    """Whether two edits have the same label, value and, as far as both are known, query."""
    if edit.label != other.label or not torch.equal(edit.value, other.value):
        return False
    return edit.query is None or other.query is None or torch.equal(edit.query, other.query)


def _merged_replay_support(
    support: tuple[bool | None, int], other_support: tuple[bool | None, int]
) -> tuple[bool | None, int]:
    """Return the replay support of two folders; unknown where they contradict, so that the next edit checks again."""
    if support[0] != other_support[0]:
        return None, 0
    return support[0], max(support[1], other_support[1])
