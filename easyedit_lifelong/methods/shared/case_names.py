"""Names of the cases of merged folders: a case_id that an earlier folder uses becomes ``ID@FOLDER``."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

from easyedit_lifelong.methods.merging import Renamed
from easyedit_lifelong.methods.shared.records import EditRecord


class CaseNames:
    """The case_ids of folders that are merged one after the other.

    Attributes:
        renamed: the cases that got another case_id.
    """

    def __init__(self) -> None:
        self.renamed: list[Renamed] = []
        self._folder = ""
        self._taken: set[str] = set()
        """The case_ids of the folders before the present one."""
        self._used: set[str] = set()
        """The case_ids of the present folder."""
        self._new_names: dict[str, str] = {}
        """The new case_ids of the present folder, by the old ones."""
        self._given: set[str] = set()
        """The new case_ids of the present folder."""

    def begin_folder(self, folder: str) -> None:
        """Begin the next folder."""
        self._taken |= self._used
        self._folder, self._used, self._new_names, self._given = folder, set(), {}, set()

    def named(self, record: EditRecord) -> EditRecord:
        """Return the record of an edit of the present folder; if another case has its case_id, with a new one."""
        case = str(record.case_id)
        if case in self._taken or case in self._given:
            if case not in self._new_names:
                self._new_names[case] = self._free_name(case)
                self._given.add(self._new_names[case])
                self.renamed.append(Renamed(self._folder, record.case_id, self._new_names[case]))
            record = dataclasses.replace(record, case_id=self._new_names[case])
        self._used.add(str(record.case_id))
        return record

    def _free_name(self, case: str) -> str:
        """Return a new case_id that no other case has so far."""
        name = f"{case}@{Path(self._folder).resolve().name}"
        candidates = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        return next(name for name in candidates if name not in self._taken and name not in self._used)
