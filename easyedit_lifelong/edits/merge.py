"""Merge edits folders of the same model, for example those of several people or days."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyedit_lifelong.edits.folder_parts import SavedEdits, check_no_edits, read_edits, write_edits
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.base import Conflict, MergeSource, Renamed
from easyedit_lifelong.paths import expanded_path
from easyedit_lifelong.plugins import get_plugins


@dataclass(frozen=True)
class MergeReport:
    """The result of a merge.

    Attributes:
        out: the merged folder.
        folders: the folders that were merged, in order.
        edits: the number of edits in the merged folder.
        keys: the number of its keys, over all layers.
        conflicts: edits whose key met a key of another folder.
        renamed: cases that got a new id, since an earlier folder has a case with the same id.
        duplicates: the number of edits that an earlier folder has, too; they are merged once.
    """

    out: str
    folders: list[str]
    edits: int
    keys: int
    conflicts: list[Conflict]
    renamed: list[Renamed]
    duplicates: int

    def to_dict(self) -> dict[str, Any]:
        """Return all fields by name, ready for JSON."""
        return dataclasses.asdict(self)


def merge_edits(folders: Sequence[str | Path], out: str | Path) -> MergeReport:
    """Merge edits folders, without a model. Every method with edits in them must have the port ``merge``, as GRACE has.

    Args:
        folders: at least two folders that :func:`~easyedit_lifelong.save_edits` wrote, of the same model.
        out: the folder for the merged edits; it must not hold edits.

    Returns:
        The numbers of merged edits and keys, the conflicts, and the renamed cases: if an earlier folder has a case with
        the same id, the id becomes ``ID@FOLDER``.

    Raises:
        RunError: a folder is incomplete or damaged, was made on another model or with other settings, or holds edits
            that can't be merged; or ``out`` holds edits already.
    """
    if len(folders) < 2:
        raise RunError("merging needs at least two folders of edits")
    out = expanded_path(out, RunError)
    check_no_edits(out)
    all_saved = [read_edits(expanded_path(folder, RunError)) for folder in folders]
    for saved in all_saved:
        _check_mergeable(saved, all_saved[0])
    methods = list(dict.fromkeys(method for saved in all_saved for method, _ in saved.parts))
    parts, merged_by_method = [], []
    for name in methods:
        sources = [
            MergeSource(str(folder), str(saved.path), [part for method, part in saved.parts if method == name])
            for folder, saved in zip(folders, all_saved, strict=True)
        ]
        merge = get_plugins().methods.get(name).merge
        assert merge is not None  # _check_mergeable
        merged = merge([source for source in sources if source.parts])
        merged_by_method.append(merged)
        parts += [(name, part) for part in merged.parts]
    write_edits(out, all_saved[0].model, all_saved[0].fingerprint, parts, replace=False)
    return MergeReport(
        out=str(out),
        folders=[str(folder) for folder in folders],
        edits=sum(len(part.edits) for _, part in parts),
        keys=sum(merged.keys for merged in merged_by_method),
        conflicts=[conflict for merged in merged_by_method for conflict in merged.conflicts],
        renamed=[renamed for merged in merged_by_method for renamed in merged.renamed],
        duplicates=sum(merged.duplicates for merged in merged_by_method),
    )


def _check_mergeable(saved: SavedEdits, first: SavedEdits) -> None:
    """Check that a folder's edits can be merged, and were made on the same model as the first folder's.

    Raises:
        RunError: they can't be merged.
    """
    methods = get_plugins().methods
    for name, _ in saved.parts:
        method = methods.get(name) if name in methods else None
        if method is None or method.merge is None:
            reason = None if method is None else method.reasons.get("merge")
            if reason is not None:
                raise RunError(f"{saved.path}: holds {name} edits, which can't be merged: {reason}")
            mergeable = ", ".join(method.name for method in methods if method.merge is not None)
            raise RunError(f"{saved.path}: holds edits of {name}, which can't be merged. Methods that can: {mergeable}")
    if saved.fingerprint != first.fingerprint:
        raise RunError(
            f"{saved.path}: these edits were made on {saved.model!r}, those of {first.path} on {first.model!r} with "
            "other weights (the fingerprints differ)"
        )
