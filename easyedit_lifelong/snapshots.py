"""Snapshots: the complete state of a method, written after every batch, so that a run can be resumed.

Most methods write only what an edit added (:class:`~easyedit_lifelong.methods.edit_stores.StateKeeper`). A method that
rewrites weights writes its complete state into an empty folder. :class:`Snapshots` makes this atomic and deletes old
snapshots.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError

from easyedit_lifelong.atomic import flush_folder, fsync_path
from easyedit_lifelong.digests import file_digest
from easyedit_lifelong.errors import LifelongError, RunError
from easyedit_lifelong.parsing import parse_json

_NAME = "after-{:06d}"
_DIGESTS = "digests.json"
"""The file of a snapshot that has the digest of every other file, by name. Snapshots of early releases have none."""


class WholeState(Protocol):
    """Writes the complete state of a method on a model, and reads it back.

    An optional method ``carries(model)`` returns whether a model has edits.
    """

    def save(self, model: Any, folder: Path) -> None:
        """Write the model's edits into an empty folder."""

    def load(self, model: Any, tok: Any, hparams: Any, folder: Path) -> None:
        """Apply the edits in a folder to an unedited model."""


class Snapshots:
    """Keeps the latest two snapshots of a method's state.

    A run writes its journal after the snapshot. If it is killed between the two, the journal's last line belongs to the
    earlier snapshot.

    Args:
        whole: writes and reads the state in a folder.
    """

    def __init__(self, whole: WholeState) -> None:
        self.whole = whole

    def save(self, model: Any, folder: Path, case_ids: Sequence[int | str] = ()) -> None:
        """Write a snapshot in one step, then delete all but the latest two.

        Args:
            model: the edited model.
            folder: the folder of the snapshots.
            case_ids: the case ids of all edits of the model; the snapshot is named by their number.

        Raises:
            OSError: the snapshot can't be written.
            RunError: the snapshot can't be written.
        """
        target, temporary = folder / _NAME.format(len(case_ids)), folder / ".writing"
        for leftover in (temporary, target):  # from a run that was killed here
            shutil.rmtree(leftover, ignore_errors=True)
        earlier = self._numbers(folder)
        temporary.mkdir(parents=True)
        try:
            self.whole.save(model, temporary)
        except SafetensorError as error:  # safetensors raises this when the disk is full
            raise RunError(f"{target}: can't be written: {error}. Earlier snapshots are unchanged.") from error
        (temporary / _DIGESTS).write_text(json.dumps(_digests_of(temporary), indent=1) + "\n", encoding="utf-8")
        flush_folder(temporary)
        os.replace(temporary, target)
        fsync_path(folder)
        previous = max((number for number in earlier if number < len(case_ids)), default=None)
        for number in earlier:
            if number != previous:
                shutil.rmtree(folder / _NAME.format(number), ignore_errors=True)

    def load(
        self, model: Any, tok: Any, hparams: Any, folder: Path, case_ids: Sequence[int | str] | None = None
    ) -> None:
        """Apply the edits of a snapshot to an unedited model.

        Args:
            model: the unedited model.
            tok: its tokenizer.
            hparams: the method's hyperparameters.
            folder: the folder of the snapshots.
            case_ids: the case ids of the edits to apply; None for the latest snapshot.

        Raises:
            RunError: there is no such snapshot, or it can't be read.
            ModelError: the snapshot belongs to another model.
        """
        numbers = self._numbers(folder)
        number = len(case_ids) if case_ids is not None else max(numbers, default=0)
        path = folder / _NAME.format(number)
        if number not in numbers:
            raise RunError(f"{path}: there is no snapshot of the edits after edit {number}; this run can't be resumed")
        try:
            _check_digests(path)
            self.whole.load(model, tok, hparams, path)
        except LifelongError:  # before ValueError, since some are ValueErrors
            raise
        except (OSError, SafetensorError, ValueError) as error:
            raise RunError(f"{path}: can't be read: {error}. The state in {folder} is damaged.") from error

    def carries(self, model: Any) -> bool:
        """Return whether a model has edits; False if the method has no such check."""
        carries = getattr(self.whole, "carries", None)
        return carries is not None and bool(carries(model))

    def _numbers(self, folder: Path) -> list[int]:
        """Return the numbers of edits of the snapshots in a folder, in ascending order."""
        names = [path.name.removeprefix("after-") for path in folder.glob("after-*")]
        return sorted(int(name) for name in names if name.isdecimal())


def _digests_of(folder: Path) -> dict[str, str]:
    """Return the digest of every file of a snapshot, by its path in the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / _DIGESTS)
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in files}


def _check_digests(folder: Path) -> None:
    """Check that a snapshot holds what was written.

    Raises:
        ValueError: a file is missing, damaged or was added.
        OSError: a file can't be read.
    """
    if not (folder / _DIGESTS).exists():
        return
    expected, present = parse_json((folder / _DIGESTS).read_text(encoding="utf-8")), _digests_of(folder)
    if not isinstance(expected, dict):
        raise ValueError(f"{_DIGESTS} isn't what was written")
    changed = [name for name in sorted({*present, *expected}) if present.get(name) != expected.get(name)]
    if changed:
        raise ValueError(f"{', '.join(changed)} isn't what was written")
