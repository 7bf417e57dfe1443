"""Merge folders of NeuralDB's edits. Edits do not depend on each other, so they are put into one table, in order."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.base import Conflict, MergedEdits, MergeSource
from easyedit_lifelong.methods.neuraldb.config import NeuralDBHyperParams
from easyedit_lifelong.methods.neuraldb.fact_table import replaced_by, unit_keys
from easyedit_lifelong.methods.neuraldb.store import NeuralDBStore
from easyedit_lifelong.methods.shared.case_names import CaseNames
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.methods.shared.separate_edits import SeparateEdit
from easyedit_lifelong.models.modules import module_path

_REPLACES = "supersede"
"""The decision of a conflict: the edit of the later folder answers in place of the earlier one."""


def merge(sources: Sequence[MergeSource]) -> MergedEdits:
    """Merge folders. Where prompts are equal up to the lookup token, the edit of the latest folder answers.

    Args:
        sources: the folders, in order.

    Raises:
        RunError: a folder is incomplete or damaged, or was made with other settings.
    """
    store, names = NeuralDBStore(), CaseNames()
    edits: list[SeparateEdit] = []
    originals: dict[EditRecord, list[SeparateEdit]] = {}
    folders: list[str] = []
    duplicates = 0
    first = sources[0].parts[0]
    for source in sources:
        names.begin_folder(source.folder)
        of_folder: list[SeparateEdit] = []
        for part in source.parts:
            _check_settings(first.hparams, part.hparams, source.where)
            for edit in store.edits_of(part, source.where):
                if any(_are_equal(edit, other) for other in originals.get(edit.record, ())):
                    duplicates += 1
                    continue
                of_folder.append(edit)
                edits.append(dataclasses.replace(edit, record=names.named(edit.record)))
                folders.append(source.folder)
        for edit in of_folder:
            originals.setdefault(edit.record, []).append(edit)
    last_hparams = sources[-1].parts[-1].hparams
    layer = module_path(NeuralDBHyperParams.from_values(last_hparams, sources[-1].where).rewrite_modules[0])
    replaced = replaced_by([edit.data for edit in edits])
    return MergedEdits(
        parts=[store.part_of(last_hparams, edits)],
        keys=sum(later is None for later in replaced),
        conflicts=_conflicts(edits, folders, replaced, layer),
        renamed=names.renamed,
        duplicates=duplicates,
    )


def _conflicts(
    edits: Sequence[SeparateEdit], folders: Sequence[str], replaced: Sequence[int | None], layer: str
) -> list[Conflict]:
    """Return a conflict for each edit that an edit of a later folder replaces."""
    conflicts = []
    for number, later in enumerate(replaced):
        if later is None or folders[number] == folders[later]:
            continue
        keys = unit_keys([edits[number], edits[later]])
        conflicts.append(
            Conflict(
                layer=layer,
                folder=folders[later],
                case_id=edits[later].record.case_id,
                decision=_REPLACES,
                with_folder=folders[number],
                with_case_id=edits[number].record.case_id,
                distance=float((1 - keys[0] @ keys[1]).clamp_min(0)),
            )
        )
    return conflicts


def _check_settings(expected: dict[str, object], found: dict[str, object], where: str) -> None:
    """Check that a folder's edits can be in one table with those of the folders before it.

    Raises:
        RunError: a setting differs.
    """
    first, other = (NeuralDBHyperParams.from_values(values, where) for values in (expected, found))
    for name in NeuralDBHyperParams.SAME_SETTINGS:
        value, wanted = getattr(other, name), getattr(first, name)
        if value != wanted:
            raise RunError(f"{where}: made with {name}={value!r}; the folders before it with {name}={wanted!r}")


def _are_equal(edit: SeparateEdit, other: SeparateEdit) -> bool:
    """Return whether two edits with the same record have the same data and tensors."""
    same_tensors = all(torch.equal(tensor, other.tensors[name]) for name, tensor in edit.tensors.items())
    return edit.data == other.data and same_tensors
