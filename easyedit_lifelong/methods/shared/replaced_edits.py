"""Separate edits of one thing: the latest of them answers. Describe and merge such edits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.edit_stores import EditsPart
from easyedit_lifelong.methods.merging import Conflict, MergedEdits, MergeSource
from easyedit_lifelong.methods.shared.case_names import CaseNames
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.methods.shared.separate_edit import SeparateEdit
from easyedit_lifelong.methods.shared.separate_edits import SeparateEditStore

NEIGHBOUR_COLUMNS = {
    "replaced by": "replaced_by",
    "nearest edit": "neighbour",
    "cosine": "cosine",
    "nearness": "nearness",
}
"""The columns of ``inspect`` that :func:`describe_neighbours` fills."""

_REPLACES = "supersede"
"""The decision of a conflict: the edit of the later folder answers in place of the earlier one."""

_SMALLEST_RADII = 1e-9
"""The smallest sum of two radii that a distance is divided by. A radius is 0 if the threshold is 1."""

_PAIRS_AT_ONCE = 1 << 24
"""Pairs of keys whose cosines are in memory at once."""


def replaced_by(things: Sequence[Hashable]) -> list[int | None]:
    """Return, for each edit, the index of the later edit that answers in its place; None if it answers itself.

    Args:
        things: what each edit is of, in order. Edits of equal things replace each other.
    """
    latest = {thing: number for number, thing in enumerate(things)}
    answering = [latest[thing] for thing in things]
    return [None if later == number else later for number, later in enumerate(answering)]


def describe_neighbours(
    edits: Sequence[SeparateEdit],
    replaced: Sequence[int | None],
    unit_keys: Tensor,
    thresholds: Sequence[float | None],
    nearly: float,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the entries and the near pairs of :class:`~easyedit_lifelong.methods.inspection.InspectedPart`.

    The distance of two keys is 1 - cosine. Their nearness is the distance divided by the sum of their radii
    1 - threshold: at 1 and below, one input can be near enough to both. Edits that a later edit replaces have no
    neighbour. Edits without thresholds have no nearness.

    Args:
        edits: the edits, in order.
        replaced: for each edit, the index of the edit that answers in its place; see :func:`replaced_by`.
        unit_keys: the keys of the edits, of unit length, shape ``(edits, width)``.
        thresholds: for each edit, the cosine above which it answers; None if there is no threshold.
        nearly: the largest nearness of a near pair.
    """
    answering = [number for number, later in enumerate(replaced) if later is None]
    entries: list[dict[str, Any]] = [
        {
            **edit.record.to_dict(),
            "replaced_by": None if later is None else later + 1,
            **dict.fromkeys(("neighbour", "cosine", "nearness")),
        }
        for edit, later in zip(edits, replaced, strict=True)
    ]
    pairs: dict[tuple[int, int], dict[str, Any]] = {}
    # A single edit has no neighbour.
    for number, (row, cosine) in zip(answering, _nearest(unit_keys[answering]), strict=False):
        other, distance = answering[row], 1 - cosine
        entries[number] |= {"neighbour": other + 1, "cosine": cosine}
        own, others = thresholds[number], thresholds[other]
        if own is None or others is None:
            continue
        nearness = distance / max(2 - own - others, _SMALLEST_RADII)
        entries[number]["nearness"] = nearness
        if nearness <= nearly:
            numbers = sorted((number + 1, other + 1))
            pairs[numbers[0], numbers[1]] = {
                "keys": numbers,
                "edits": numbers,
                "distance": distance,
                "nearness": nearness,
                "same_target": edits[number].record.target_new == edits[other].record.target_new,
            }
    return entries, sorted(pairs.values(), key=lambda pair: (pair["nearness"], pair["keys"]))


def merge_separate_edits(
    store: SeparateEditStore,
    sources: Sequence[MergeSource],
    thing_of: Callable[[SeparateEdit], Hashable],
    layer: str,
    distance: Callable[[SeparateEdit, SeparateEdit], float],
) -> MergedEdits:
    """Merge folders: put their edits into one, in order. Of edits of equal things, that of the latest folder answers.

    Args:
        store: the method's store.
        sources: the folders, in order.
        thing_of: returns what an edit is of.
        layer: the layer that conflicts name.
        distance: returns the distance between the keys of two edits.

    Raises:
        RunError: a folder is incomplete or damaged, or was made with other settings.
    """
    names = CaseNames()
    edits: list[SeparateEdit] = []
    originals: dict[EditRecord, list[SeparateEdit]] = {}
    folders: list[str] = []
    duplicates = 0
    first = sources[0].parts[0]
    for source in sources:
        names.begin_folder(source.folder)
        of_folder: list[SeparateEdit] = []
        for part in source.parts:
            _check_settings(store, first, part, source.where)
            for edit in store.edits_of(part, source.where):
                if any(_are_equal(edit, other) for other in originals.get(edit.record, ())):
                    duplicates += 1
                    continue
                of_folder.append(edit)
                edits.append(dataclasses.replace(edit, record=names.named(edit.record)))
                folders.append(source.folder)
        for edit in of_folder:
            originals.setdefault(edit.record, []).append(edit)
    replaced = replaced_by([thing_of(edit) for edit in edits])
    conflicts = [
        Conflict(
            layer=layer,
            folder=folders[later],
            case_id=edits[later].record.case_id,
            decision=_REPLACES,
            with_folder=folders[number],
            with_case_id=edits[number].record.case_id,
            distance=distance(edits[number], edits[later]),
        )
        for number, later in enumerate(replaced)
        if later is not None and folders[number] != folders[later]
    ]
    return MergedEdits(
        parts=[store.part_of(sources[-1].parts[-1].hparams, edits)],
        keys=sum(later is None for later in replaced),
        conflicts=conflicts,
        renamed=names.renamed,
        duplicates=duplicates,
    )


def _nearest(unit_keys: Tensor) -> list[tuple[int, float]]:
    """Return the nearest other key of each key, and the cosine between both; empty if there is only one key."""
    if len(unit_keys) < 2:
        return []
    nearest: list[tuple[int, float]] = []
    for rows in torch.arange(len(unit_keys)).split(max(1, _PAIRS_AT_ONCE // len(unit_keys))):
        cosines = unit_keys[rows] @ unit_keys.t()
        cosines[torch.arange(len(rows)), rows] = -1.0
        values, others = cosines.clamp(-1, 1).max(dim=1)
        nearest += zip(others.tolist(), values.tolist(), strict=True)
    return nearest


def _check_settings(store: SeparateEditStore, expected: EditsPart, found: EditsPart, where: str) -> None:
    """Check that a folder's edits can be put together with those of the folders before it.

    Raises:
        RunError: a setting differs.
    """
    hparams_class = store.editor.hparams_class
    first, other = (store.shared_settings(hparams_class.from_values(part.hparams, where)) for part in (expected, found))
    for name, wanted in first.items():
        if other[name] != wanted:
            raise RunError(f"{where}: made with {name}={other[name]!r}; the folders before it with {name}={wanted!r}")


def _are_equal(edit: SeparateEdit, other: SeparateEdit) -> bool:
    """Return whether two edits with the same record have the same data and tensors."""
    same_tensors = all(torch.equal(tensor, other.tensors[name]) for name, tensor in edit.tensors.items())
    return edit.data == other.data and same_tensors
