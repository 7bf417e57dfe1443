"""Join folders of GRACE edits that were made on the same model: by different people, or on different days."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from easyedit_lifelong.edits.edits_folder import INDEX
from easyedit_lifelong.edits.parts import SavedEdits, read_edits, write_edits
from easyedit_lifelong.edits.remove import COACHHOOK, GRACE
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.grace.codebook.decisions import Decision
from easyedit_lifelong.methods.grace.codebook.history import Entry, enter, entries_in, keys_of, rows_of
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.editor import SAME_SETTINGS
from easyedit_lifelong.methods.grace.serialized import PackedEdits
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.models.modules import module_path


@dataclass(frozen=True)
class Conflict:
    """An edit that met another folder's.

    Attributes:
        layer: path of the edited layer.
        folder: where the edit is from.
        case_id: its case, as the merged folder calls it.
        decision: what it did: ``split``, ``expand``, ``covered`` or ``supersede``.
        with_folder: where the edit that it met is from.
        with_case_id: that one's case, as the merged folder calls it.
        distance: from its query to that one's key, in units of the distance function.
    """

    layer: str
    folder: str
    case_id: int | str
    decision: str
    with_folder: str
    with_case_id: int | str
    distance: float


@dataclass(frozen=True)
class Renamed:
    """A case whose id another folder's had: where it is from, its id there, and its id now."""

    folder: str
    before: int | str
    after: str


@dataclass(frozen=True)
class MergeReport:
    """What became of the folders.

    Attributes:
        out: the merged folder.
        folders: what was merged, in order.
        edits: how many edits it holds.
        keys: how many keys, of all layers.
        conflicts: edits that met another folder's.
        renamed: cases whose ids collided.
        duplicates: how many edits were in an earlier folder already, and are in once.
    """

    out: str
    folders: list[str]
    edits: int
    keys: int
    conflicts: list[Conflict]
    renamed: list[Renamed]
    duplicates: int

    def to_dict(self) -> dict[str, Any]:
        """Return everything by name, ready for JSON."""
        return dataclasses.asdict(self)


def merge_edits(folders: Sequence[str | Path], out: str | Path) -> MergeReport:
    """Join folders of GRACE edits, without a model: the later ones' edits enter the first one's codebook in order.

    Edits enter by the paper's algorithm 1, with the queries and values that they have; so of two edits of one prompt
    the later folder's stands. Edits of different layers stay apart.

    Args:
        folders: at least two folders that :func:`~easyedit_lifelong.save_edits` wrote, of the same model.
        out: where the merged edits go; must not hold edits.

    Returns:
        What met what, and which cases had to be renamed: a case whose id is taken becomes ``ID@FOLDER``.

    Raises:
        RunError: a folder isn't whole, is of another model or other settings, holds edits of another method than
            GRACE, or edits that were saved without their queries; or ``out`` holds edits already.
    """
    if len(folders) < 2:
        raise RunError("merging needs at least two folders of edits")
    if (Path(out) / INDEX).exists():
        raise RunError(f"{out}: holds edits already; name another folder")
    every = [read_edits(Path(folder)) for folder in folders]
    for saved in every:
        _check(saved, every[0])
    merge = _Merge()
    for folder, saved in zip(folders, every, strict=True):
        merge.join(str(folder), saved)
    parts = [(GRACE, edits.part()) for edits in merge.layers.values()]
    write_edits(Path(out), every[0].model, every[0].fingerprint, parts)
    return MergeReport(
        str(out), [str(folder) for folder in folders], sum(len(part.edits) for _, part in parts),
        sum(len(edits.codebook) for edits in merge.layers.values()), merge.conflicts, merge.renamed, merge.duplicates,
    )  # fmt: skip


def _check(saved: SavedEdits, first: SavedEdits) -> None:
    for method, _ in saved.parts:
        if method == COACHHOOK:
            raise RunError(
                f"{saved.path}: holds CoachHook edits, which can't be merged: every batch was solved for upon the "
                "weights and keys of those before it, so in another place it would write something else. Make the "
                "edits anew, upon each other."
            )
        if method != GRACE:
            raise RunError(f"{saved.path}: holds edits of {method}, which can't be merged; only GRACE's can")
    if saved.fingerprint != first.fingerprint:
        raise RunError(
            f"{saved.path}: these edits were made on {saved.model!r}, those of {first.path} on {first.model!r} with "
            "other weights (the fingerprints differ)"
        )


class _Merge:
    """The merged edits so far.

    Attributes:
        layers: the edits of each layer.
    """

    def __init__(self) -> None:
        self.layers: dict[str, PackedEdits] = {}
        self.conflicts: list[Conflict] = []
        self.renamed: list[Renamed] = []
        self.duplicates = 0
        self._origins: dict[str, list[tuple[str, EditRecord]]] = {}
        """Of each layer's edits: the folder that it is from, and its record there."""
        self._taken: set[str] = set()

    def join(self, folder: str, saved: SavedEdits) -> None:
        """Join a folder's edits."""
        names: dict[str, str] = {}
        own: set[str] = set()
        for _, part in saved.parts:
            where = str(saved.path)
            edits = PackedEdits.of(part, where)
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
    def _check_settings(known: PackedEdits, edits: PackedEdits, where: str) -> None:
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

    def _duplicates(self, layer: str, known: PackedEdits, edits: PackedEdits) -> set[int]:
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
        self, layer: str, known: PackedEdits, edits: PackedEdits, folder: str, originals: Sequence[EditRecord],
        duplicates: set[int], where: str,
    ) -> None:  # fmt: skip
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
                self.conflicts.append(Conflict(
                    layer, folder, record.case_id, decision.value, origins[met][0], known.records[met].case_id,
                    match.distance,
                ))  # fmt: skip
            index, change = enter(codebook, entry, decided)
            owners[index] = len(known.records)
            known.changes.append(change)
            known.records.append(record)
            origins.append((folder, originals[n]))
            if keys[n] >= edits.changes[n].length:  # it had added that key
                codebook.hits[index] += edits.codebook.hits[keys[n]]
        known.replay_support = _both(known.replay_support, edits.replay_support)


def _entries(edits: PackedEdits) -> list[Entry]:
    return entries_in(edits.changes, rows_of(edits.codebook, edits.changes))


def _same(one: Entry, other: Entry) -> bool:
    if one.label != other.label or not torch.equal(one.value, other.value):
        return False
    return one.query is None or other.query is None or torch.equal(one.query, other.query)


def _both(one: tuple[bool | None, int], other: tuple[bool | None, int]) -> tuple[bool | None, int]:
    """Return what both have shown of the model; where they contradict, the next edit finds out again."""
    return (one[0], max(one[1], other[1])) if one[0] == other[0] else (None, 0)
