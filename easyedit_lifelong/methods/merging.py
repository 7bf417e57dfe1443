"""What a method gets and returns when folders of its edits are merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from easyedit_lifelong.methods.edit_stores import EditsPart


@dataclass(frozen=True)
class MergeSource:
    """One folder of a merge.

    Attributes:
        folder: the name of the folder.
        where: its index file, for messages.
        parts: its parts of one method, in order.
    """

    folder: str
    where: str
    parts: Sequence[EditsPart]


@dataclass(frozen=True)
class Conflict:
    """An edit whose query matched the key of an edit from another folder during a merge.

    Attributes:
        layer: path of the edited layer.
        folder: the folder that the edit is from.
        case_id: the edit's ``case_id`` in the merged folder.
        decision: the codebook's decision: ``split``, ``expand``, ``covered`` or ``supersede``.
        with_folder: the folder that the other edit is from.
        with_case_id: the other edit's ``case_id`` in the merged folder.
        distance: distance from the edit's query to the other edit's key, in units of the distance function.
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
    """A case that got another ``case_id`` in a merge, because an earlier folder has the same one.

    Attributes:
        folder: the folder that the case is from.
        before: its ``case_id`` in that folder.
        after: its ``case_id`` in the merged folder.
    """

    folder: str
    before: int | str
    after: str


@dataclass(frozen=True)
class MergedEdits:
    """The merged edits of several folders, of one method.

    Attributes:
        parts: the merged edits.
        keys: number of their keys; 0 for methods without keys.
        conflicts: edits that matched a key from another folder.
        renamed: cases that got another ``case_id``.
        duplicates: number of edits that were left out because an earlier folder has them, too.
    """

    parts: list[EditsPart]
    keys: int = 0
    conflicts: list[Conflict] = field(default_factory=list)
    renamed: list[Renamed] = field(default_factory=list)
    duplicates: int = 0
