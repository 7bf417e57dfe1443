"""Merge folders of GRACE edits: insert the edits of later folders into the codebooks of the first one, in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.edit_stores import EditsPart
from easyedit_lifelong.methods.grace.codebook.decisions import Decision
from easyedit_lifelong.methods.grace.codebook.edit_history import (
    TrainedEdit,
    all_keys_of,
    further_rows_of,
    insert_again,
    rows_of,
    trained_edits,
)
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.editor import SAME_SETTINGS
from easyedit_lifelong.methods.grace.serialized import SerializedEdits
from easyedit_lifelong.methods.merging import Conflict, MergedEdits, MergeSource
from easyedit_lifelong.methods.shared.case_names import CaseNames
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
    layers = [merged.edits for merged in merging.layers.values()]
    return MergedEdits(
        parts=[edits.part() for edits in layers],
        keys=sum(len(edits.codebook) + len(edits.codebook.further_keys or ()) for edits in layers),
        conflicts=merging.conflicts,
        renamed=merging.case_names.renamed,
        duplicates=merging.duplicates,
    )


@dataclass(frozen=True)
class _Origin:
    """The origin of a merged edit.

    Attributes:
        folder: the folder that the edit is from.
        record: the edit's record there, with its original case_id.
    """

    folder: str
    record: EditRecord


class _LayerEdits:
    """The edits of one layer: a folder's, or those of several folders merged.

    Args:
        folder: the folder.
        where: the folder's index file, for messages.
        part: the folder's edits of the layer.

    Attributes:
        layer: path of the layer.
        edits: the edits, with their case_ids in the merged folder.
        origins: the origin of each edit, in the same order.
    """

    def __init__(self, folder: str, where: str, part: EditsPart) -> None:
        self.layer = module_path(part.hparams["inner_params"][0])
        self.edits = SerializedEdits.of(part, where)
        self.origins = [_Origin(folder, record) for record in self.edits.records]

    def trained_edits(self) -> list[TrainedEdit]:
        """Return queries, labels and values of the edits."""
        codebook, changes = self.edits.codebook, self.edits.changes
        return trained_edits(changes, rows_of(codebook, changes), further_rows_of(codebook, changes))

    def keys(self) -> list[list[int]]:
        """Return the indices of each edit's keys: its own, then that of each other name of its subject."""
        return all_keys_of(self.edits.codebook, self.edits.changes)


class _Merge:
    """The edits merged so far.

    Attributes:
        layers: the merged edits of each layer, by its path.
        conflicts: edits of later folders that matched a key from an earlier folder.
        duplicates: number of edits skipped because an earlier folder holds them.
        case_names: the case_ids of the merged edits.
    """

    def __init__(self) -> None:
        self.layers: dict[str, _LayerEdits] = {}
        self.conflicts: list[Conflict] = []
        self.duplicates = 0
        self.case_names = CaseNames()

    def add(self, source: MergeSource) -> None:
        """Merge a folder's edits."""
        self.case_names.begin_folder(source.folder)
        for part in source.parts:
            added = _LayerEdits(source.folder, source.where, part)
            merged = self.layers.get(added.layer)
            duplicates = set[int]()
            if merged is not None:
                _check_settings(merged.edits, added.edits, source.where)
                duplicates = _duplicates(merged, added)
            self.duplicates += len(duplicates)
            for n, record in enumerate(added.edits.records):
                if n not in duplicates:
                    added.edits.records[n] = self.case_names.named(record)
            if merged is None:
                self.layers[added.layer] = added
            else:
                self._insert(merged, added, duplicates, source.where)

    def _insert(self, merged: _LayerEdits, added: _LayerEdits, duplicates: set[int], where: str) -> None:
        """Insert a folder's edits into the merged codebook of their layer, in order.

        Args:
            merged: the merged edits of the layer.
            added: the folder's edits of the layer.
            duplicates: numbers of the edits to skip.
            where: the folder's index file, for messages.

        Raises:
            RunError: an edit was saved without its query.
        """
        codebook, records = merged.edits.codebook, merged.edits.records
        # Each key answers for its last edit.
        owners = {key: number for number, keys in enumerate(merged.keys()) for key in keys}
        keys_in_folder = added.keys()
        for n, edit in enumerate(added.trained_edits()):
            if n in duplicates:
                continue
            record, origin = added.edits.records[n], added.origins[n]
            if edit.query is None:
                raise RunError(
                    f"{where}: the edit of case {origin.record.case_id!r} was saved without its query, by an "
                    "early release. Put this folder first, or make that edit again."
                )
            decision, match = codebook.decide(edit.query, edit.label, edit.value)
            if decision is not Decision.ADD:
                rival = owners[match.index]
                if merged.origins[rival].folder != origin.folder:
                    self.conflicts.append(
                        Conflict(
                            layer=merged.layer,
                            folder=origin.folder,
                            case_id=record.case_id,
                            decision=decision.value,
                            with_folder=merged.origins[rival].folder,
                            with_case_id=records[rival].case_id,
                            distance=match.distance,
                        )
                    )
            _, change = insert_again(codebook, edit, (decision, match))
            (keys,) = all_keys_of(codebook, [change])
            owners |= dict.fromkeys(keys, len(records))
            merged.edits.changes.append(change)
            records.append(record)
            merged.origins.append(origin)
            change_in_folder = added.edits.changes[n]
            of_keys = (change_in_folder, *change_in_folder.other_names)
            for of_key, key_in_folder, key in zip(of_keys, keys_in_folder[n], keys, strict=True):
                added_key = key_in_folder >= of_key.length
                if added_key:
                    codebook.hits[key] += added.edits.codebook.hits[key_in_folder]
        merged.edits.replay_support = merged.edits.replay_support.merged_with(added.edits.replay_support)


def _check_settings(merged: SerializedEdits, added: SerializedEdits, where: str) -> None:
    """Check that a folder's edits fit into the merged codebook of their layer.

    Raises:
        RunError: settings, widths or whitening differ.
    """
    # Old folders lack settings of later releases. Read as hyperparameters, they have the default values.
    expected_hparams, hparams = (GraceHyperParams.from_values(edits.hparams, where) for edits in (merged, added))
    for name in SAME_SETTINGS:
        expected, value = getattr(expected_hparams, name), getattr(hparams, name)
        if value != expected:
            raise RunError(f"{where}: made with {name}={value!r}; the folders before it with {name}={expected!r}")
    expected_widths, widths = ((edits.codebook.key_width, edits.codebook.value_size) for edits in (merged, added))
    if widths != expected_widths:
        raise RunError(f"{where}: keys and values are {widths} wide, those of the folders before it {expected_widths}")
    if not merged.key_space.same_as(added.key_space):
        raise RunError(
            f"{where}: its keys have other second moments, or its gates have another relation metric, than "
            "those of the folders before it, so they can't be compared. Make these edits again on a model with the "
            "others' edits, or make all of them with the same stats_dir."
        )


def _duplicates(merged: _LayerEdits, added: _LayerEdits) -> set[int]:
    """Return the numbers of added edits that are merged already: with equal record, label, value and query."""
    merged_by_record: dict[EditRecord, list[TrainedEdit]] = {}
    for origin, edit in zip(merged.origins, merged.trained_edits(), strict=True):
        merged_by_record.setdefault(origin.record, []).append(edit)
    return {
        number
        for number, (origin, edit) in enumerate(zip(added.origins, added.trained_edits(), strict=True))
        if any(_are_equal(edit, other) for other in merged_by_record.get(origin.record, ()))
    }


def _are_equal(edit: TrainedEdit, other: TrainedEdit) -> bool:
    """Whether two edits have the same label, value and, as far as both are known, query."""
    if edit.label != other.label or not torch.equal(edit.value, other.value):
        return False
    return edit.query is None or other.query is None or torch.equal(edit.query, other.query)
