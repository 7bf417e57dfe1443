"""What a folder of edits holds; neither a model nor EasyEdit is needed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyedit_lifelong.edits.parts import read_edits
from easyedit_lifelong.methods.base import InspectedPart
from easyedit_lifelong.methods.edit_stores import EditsPart
from easyedit_lifelong.plugins import get_plugins

NEARLY = 1.25
"""Keys whose distance is up to this many times the sum of their radii nearly collide."""


@dataclass(frozen=True)
class Inspection:
    """What a folder of edits holds.

    Attributes:
        folder: which.
        format_version: of its files.
        saved: when it was written, ISO 8601, UTC.
        model: name of the model that the edits were made on.
        fingerprint: of that model's weights.
        versions: of the packages that wrote it.
        count: how many edits.
        parts: one for each editor.
    """

    folder: str
    format_version: int
    saved: str
    model: str
    fingerprint: str
    versions: dict[str, str]
    count: int
    parts: list[InspectedPart]

    def to_dict(self) -> dict[str, Any]:
        """Return everything by name, ready for JSON; how a table shows it is left out."""
        values = dataclasses.asdict(self)
        for part in values["parts"]:
            del part["columns"], part["batch_columns"]
        return values


def inspect_edits(folder: str | Path, nearly: float = NEARLY) -> Inspection:
    """Look into a folder of edits.

    Args:
        folder: what :func:`~easyedit_lifelong.save_edits` wrote, or a run's ``state/``.
        nearly: up to which nearness two keys are listed.

    Raises:
        RunError: there are no edits in it, or they aren't whole, or of a newer format; the message names the file.
    """
    saved = read_edits(Path(folder).expanduser())
    parts = [_inspected(method, part, str(saved.path), nearly) for method, part in saved.parts]
    return Inspection(
        folder=str(folder),
        format_version=saved.index["format_version"],
        saved=str(saved.index.get("saved", "")),
        model=saved.model,
        fingerprint=saved.fingerprint,
        versions=saved.index.get("versions", {}),
        count=sum(len(part.edits) for part in parts),
        parts=parts,
    )


def _inspected(method: str, part: EditsPart, where: str, nearly: float) -> InspectedPart:
    methods = get_plugins().methods
    describe = methods.get(method).describe if method in methods else None
    if describe is None:
        return InspectedPart(method, [], {}, [dict(edit) for edit in part.edits])
    return describe(part, where, nearly)
