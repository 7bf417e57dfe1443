"""Inspect an edits folder, without a model and without EasyEdit."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyedit_lifelong.edits.folder_parts import read_edits
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.base import NEARLY, InspectedPart
from easyedit_lifelong.methods.edit_stores import EditsPart
from easyedit_lifelong.paths import expanded_path
from easyedit_lifelong.plugins import get_plugins


@dataclass(frozen=True)
class Inspection:
    """The content of an edits folder.

    Attributes:
        folder: the folder.
        format_version: the version of its format.
        saved: when it was written, ISO 8601, UTC.
        model: name of the model that the edits were made on.
        fingerprint: the fingerprint of that model's weights.
        versions: the versions of the packages that wrote the folder.
        count: the number of edits.
        parts: the edits of each editor.
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
        """Return all fields by name, ready for JSON, without the headings of tables."""
        values = dataclasses.asdict(self)
        for part in values["parts"]:
            del part["columns"], part["batch_columns"]
        return values


def inspect_edits(folder: str | Path, nearly: float = NEARLY) -> Inspection:
    """Return what a folder of edits holds.

    Args:
        folder: a folder that :func:`~easyedit_lifelong.save_edits` wrote, or a run's ``state/``.
        nearly: list pairs of edits up to this nearness: their keys' distance, divided by the sum of their radii.

    Raises:
        RunError: the folder holds no edits, is incomplete or damaged, or has a newer format; the message names the
            file.
    """
    saved = read_edits(expanded_path(folder, RunError))
    parts = [_inspect_part(method, part, str(saved.path), nearly) for method, part in saved.parts]
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


def _inspect_part(method: str, part: EditsPart, where: str, nearly: float) -> InspectedPart:
    """Return what a part holds, as its method describes it or, without that port, as a list of its edits."""
    methods = get_plugins().methods
    describe = methods.get(method).describe if method in methods else None
    if describe is None:
        return InspectedPart(method, [], {}, [dict(edit) for edit in part.edits])
    return describe(part, where, nearly)
