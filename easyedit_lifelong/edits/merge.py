"""Join folders of edits that were made on the same model: by different people, or on different days."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyedit_lifelong.edits.edits_folder import INDEX
from easyedit_lifelong.edits.parts import SavedEdits, read_edits, write_edits
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.base import Conflict, MergeSource, Renamed
from easyedit_lifelong.plugins import get_plugins


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
    """Join folders of edits of methods whose edits can be merged (GRACE's can), without a model.

    Args:
        folders: at least two folders that :func:`~easyedit_lifelong.save_edits` wrote, of the same model.
        out: where the merged edits go; must not hold edits.

    Returns:
        Which edits met others, and which cases had to be renamed: a case whose id is taken becomes ``ID@FOLDER``.

    Raises:
        RunError: a folder isn't whole, is of another model or other settings, or holds edits that can't be merged;
            or ``out`` holds edits already.
    """
    if len(folders) < 2:
        raise RunError("merging needs at least two folders of edits")
    out = Path(out).expanduser()
    if (out / INDEX).exists():
        raise RunError(f"{out}: holds edits already; name another folder")
    every = [read_edits(Path(folder).expanduser()) for folder in folders]
    for one in every:
        _check(one, every[0])
    methods = list(dict.fromkeys(method for one in every for method, _ in one.parts))
    parts, merged = [], []
    for name in methods:
        sources = [
            MergeSource(str(folder), str(one.path), [part for method, part in one.parts if method == name])
            for folder, one in zip(folders, every, strict=True)
        ]
        merge = get_plugins().methods.get(name).merge
        assert merge is not None  # checked with everything else
        joined = merge([source for source in sources if source.parts])
        merged.append(joined)
        parts += [(name, part) for part in joined.parts]
    write_edits(out, every[0].model, every[0].fingerprint, parts)
    return MergeReport(
        out=str(out),
        folders=[str(folder) for folder in folders],
        edits=sum(len(part.edits) for _, part in parts),
        keys=sum(joined.keys for joined in merged),
        conflicts=[conflict for joined in merged for conflict in joined.conflicts],
        renamed=[renamed for joined in merged for renamed in joined.renamed],
        duplicates=sum(joined.duplicates for joined in merged),
    )


def _check(saved: SavedEdits, first: SavedEdits) -> None:
    """Check that a folder's edits can be merged, and were made on the first folder's model."""
    methods = get_plugins().methods
    for name, _ in saved.parts:
        method = methods.get(name) if name in methods else None
        if method is None or method.merge is None:
            reason = None if method is None else method.reasons.get("merge")
            if reason is not None:
                raise RunError(f"{saved.path}: holds {name} edits, which can't be merged: {reason}")
            able = " and ".join(method.name for method in methods if method.merge is not None)
            raise RunError(f"{saved.path}: holds edits of {name}, which can't be merged; only {able}'s can")
    if saved.fingerprint != first.fingerprint:
        raise RunError(
            f"{saved.path}: these edits were made on {saved.model!r}, those of {first.path} on {first.model!r} with "
            "other weights (the fingerprints differ)"
        )
