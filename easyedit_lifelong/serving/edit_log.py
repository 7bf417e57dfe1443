"""The folder of a server: an append-only journal of versions, and the state folders that hold the edits.

Every edit, deletion and rollback makes a new version of the edits. A version is a line of ``journal.jsonl``. It names a
state folder and how many of the folder's first edits it has. The line is written after the edits are on disk, so a
process that is killed at any moment leaves the versions that it has recorded, and no other.

A state folder only grows while edits are added. A deletion or a rollback begins a new state folder, so that all earlier
versions stay readable.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyedit_lifelong.atomic import append_durably, fsync_path, write_text_atomically
from easyedit_lifelong.clock import now
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.edits.edits_folder import INDEX
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.folder_lock import lock_folder
from easyedit_lifelong.runs.run_lines import Check, is_count, is_text, read_lines
from easyedit_lifelong.write_errors import translated_write_errors

JOURNAL = "journal.jsonl"
FORMAT_VERSION = 1
EDIT, DELETE, ROLLBACK = "edit", "delete", "rollback"
_STATE_NAME = re.compile(r"state-([0-9]{6,})")


@dataclass(frozen=True)
class Version:
    """One version of the edits.

    Attributes:
        number: its number; version 0 is the base model.
        action: what made it: ``edit``, ``delete`` or ``rollback``; ``base`` for version 0.
        ids: the edits that the action added or removed.
        who: the name of the key that the request had.
        time: when it was made: ISO 8601, UTC.
        state: number of the state folder that holds its edits; 0 if it has none.
        count: how many of the folder's first edits it has.
        to: the version that a rollback restored; None for other actions.
    """

    number: int
    action: str
    ids: tuple[str, ...]
    who: str
    time: str
    state: int
    count: int
    to: int | None = None


class EditLog:
    """The open folder of a server. One process at a time can open it.

    Args:
        path: the folder; made if it does not exist.

    Attributes:
        path: the folder.
        versions: all versions, by number.
        edits: what was recorded about each edit that was ever made, by its id.

    Raises:
        RunError: another process serves these edits; or the folder can't be written to, is damaged, or holds edits that
            no server wrote.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.versions = [Version(0, "base", (), "", "", 0, 0)]
        self.edits: dict[str, dict[str, Any]] = {}
        self._ids_of_state: dict[int, list[str]] = {0: []}
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{path}: can't make this folder: {error.strerror}") from error
        if (path / INDEX).exists():
            raise RunError(
                f"{path}: holds saved edits that no server wrote. Name a new folder, and add the edits through the API."
            )
        self._lock = lock_folder(path, work="serving these edits")
        try:
            self._read()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the folder."""
        if self._lock is not None:
            self._lock.release()

    @property
    def present(self) -> Version:
        """The latest version."""
        return self.versions[-1]

    def ids_at(self, number: int) -> list[str]:
        """Return the ids of the edits that a version has, in order."""
        version = self.versions[number]
        return self._ids_of_state[version.state][: version.count]

    def state_folder(self, number: int) -> Path:
        """Return the state folder of this number."""
        return self.path / f"state-{number:06d}"

    def new_state(self) -> int:
        """Return the number of the next state folder."""
        return max(self._ids_of_state) + 1

    def new_id(self, taken: Sequence[str] = ()) -> str:
        """Return an id that no edit has, and that is not one of ``taken``."""
        number = len(self.edits) + 1
        while f"edit-{number}" in self.edits or f"edit-{number}" in taken:
            number += 1
        return f"edit-{number}"

    def record_edits(self, entries: Sequence[Mapping[str, Any]], who: str, state: int) -> Version:
        """Record that edits were added, which the state folder holds already. They are on disk when this returns.

        Args:
            entries: for each edit, its ``id`` and what else is to be recorded.
            who: the name of the key.
            state: the number of the state folder.

        Raises:
            RunError: the journal can't be written; then no version has been made.
        """
        fsync_path(self.path)  # the state folder may be new
        ids = tuple(str(entry["id"]) for entry in entries)
        live = [*self.ids_at(self.present.number), *ids]
        version = Version(len(self.versions), EDIT, ids, who, now(), state, len(live))
        return self._append(version, live, entries)

    def record_removal(
        self, action: str, ids: Sequence[str], live: Sequence[str], who: str, state: int, to: int | None = None
    ) -> Version:
        """Record a deletion or a rollback, whose remaining edits are in a new state folder.

        Args:
            action: ``delete`` or ``rollback``.
            ids: the edits that were removed.
            live: the remaining edits, in order.
            who: the name of the key.
            state: the number of the new state folder; not used if no edit remains.
            to: the version that a rollback restored.

        Raises:
            RunError: the journal can't be written; then no version has been made.
        """
        fsync_path(self.path)
        state = state if live else 0
        return self._append(Version(len(self.versions), action, tuple(ids), who, now(), state, len(live), to), live)

    def _append(self, version: Version, live: Sequence[str], entries: Sequence[Mapping[str, Any]] = ()) -> Version:
        """Write a version's line, then add the version."""
        line: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "version": version.number,
            "action": version.action,
            "who": version.who,
            "time": version.time,
            "state": version.state,
            "count": version.count,
        }
        if version.to is not None:
            line["to"] = version.to
        line |= {"edits": list(entries)} if version.action == EDIT else {"ids": list(version.ids)}
        data = (json.dumps(line, ensure_ascii=False) + "\n").encode()
        try:
            append_durably(self.path / JOURNAL, data, must_exist=len(self.versions) > 1)
        except OSError as error:
            raise RunError(
                f"{self.path / JOURNAL}: can't be written: {error.strerror}. Nothing was changed."
            ) from error
        self._add(version, live, entries)
        return version

    def _add(self, version: Version, live: Sequence[str], entries: Sequence[Mapping[str, Any]]) -> None:
        """Add a version that is on disk. Other threads may read meanwhile, so the version is added last."""
        if version.state:
            self._ids_of_state[version.state] = list(live)
        for entry in entries:
            made = {"version": version.number, "who": version.who, "time": version.time}
            self.edits[str(entry["id"])] = {**entry, **made}
        self.versions.append(version)

    def _read(self) -> None:
        """Read the journal, and remove what a killed process left unfinished.

        Raises:
            RunError: the journal is damaged, or a newer release wrote it.
        """
        path = self.path / JOURNAL
        consequence = "these edits can't be served. Restore the folder from a copy."
        self._make_journal(consequence)
        for line in read_lines(path, _FIELDS, consequence):
            if line["format_version"] > FORMAT_VERSION:
                raise RunError(f"{path}: a newer release of this package wrote it. Update easyedit_lifelong.")
            try:
                self._replay(line)
            except (IndexError, KeyError, TypeError, ValueError) as error:
                raise RunError(f"{path}: version {line['version']} is damaged; {consequence}") from error
        unrecorded = {number: folder for number, folder in self._state_folders().items() if number >= self.new_state()}
        if len(unrecorded) > 1:  # a killed process leaves one at most
            names = ", ".join(folder.name for folder in unrecorded.values())
            raise RunError(f"{path}: lacks the versions of {names}; {consequence}")
        if not (data := path.read_bytes()).endswith(b"\n") and data:
            write_text_atomically(path, data[: data.rfind(b"\n") + 1].decode(), newline="")
        for folder in unrecorded.values():
            shutil.rmtree(folder)

    def _make_journal(self, consequence: str) -> None:
        """Make an empty journal in a new folder, so that a journal that was lost is noticed.

        Raises:
            RunError: the journal of a folder with edits is missing.
        """
        path = self.path / JOURNAL
        if path.exists():
            return
        if folders := self._state_folders():
            raise RunError(
                f"{path}: is missing, but {folders[min(folders)].name} is there; {consequence} To begin without these "
                "edits, use a new folder."
            )
        with translated_write_errors(path):
            write_text_atomically(path, "")

    def _state_folders(self) -> dict[int, Path]:
        """Return the state folders by number, in ascending order; copies that somebody made have other names."""
        matches = [(_STATE_NAME.fullmatch(folder.name), folder) for folder in sorted(self.path.glob("state-*"))]
        return {int(match[1]): folder for match, folder in matches if match is not None}

    def _replay(self, line: Mapping[str, Any]) -> None:
        """Add the version of a line of the journal.

        Raises:
            IndexError, KeyError, TypeError, ValueError: the line is damaged.
        """
        entries = line["edits"] if line["action"] == EDIT else []
        ids = tuple(str(entry["id"]) for entry in entries) or tuple(line.get("ids", ()))
        before = self.ids_at(self.present.number)
        if line["action"] == EDIT:
            live = [*before, *ids]
        elif line["action"] == DELETE:
            live = [name for name in before if name not in ids]
        else:
            live = self.ids_at(line["to"])
        if line["version"] != len(self.versions) or line["count"] != len(live):
            raise ValueError("a line is missing")
        version = Version(
            line["version"], line["action"], ids, line["who"], line["time"], line["state"], len(live), line.get("to")
        )
        self._add(version, live, entries)


def entry_of(request: EditRequest, learned: bool, text: str) -> dict[str, Any]:
    """Return what the journal records about an edit."""
    return {
        "id": str(request.case_id),
        "prompt": request.prompt,
        "target_new": request.target_new,
        "subject": request.subject,
        "ground_truth": request.ground_truth,
        **({"aliases": list(request.aliases)} if request.aliases else {}),
        **({"joiner": request.joiner} if request.joiner is not None else {}),
        **({"question": request.question} if request.question_span is not None else {}),
        "learned": learned,
        "text": text,
    }


def _is_action(value: Any, _: Mapping[str, Any]) -> bool:
    return value in (EDIT, DELETE, ROLLBACK)


_FIELDS: Mapping[str, Check] = {
    "format_version": is_count,
    "version": is_count,
    "action": _is_action,
    "who": is_text,
    "time": is_text,
    "state": is_count,
    "count": is_count,
}
