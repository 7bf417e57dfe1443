"""State that is written whole after every edit, kept so that one whole copy is always there.

Most methods change so little per edit that they can write just that
(:class:`~easyedit_lifelong.methods.edit_stores.StateKeeper`). A method that rewrites weights can't: it writes its state
into an empty folder, and this module does the rest.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError

from easyedit_lifelong.atomic import sync
from easyedit_lifelong.errors import LifelongError, RunError

_NAME = "after-{:06d}"


class WholeState(Protocol):
    """Writes all that a method has done to a model, and puts it back.

    A method ``carries(model)``, if there is one, tells whether a model carries edits.
    """

    def save(self, model: Any, folder: Path) -> None:
        """Write the edits that a model carries into an empty folder."""

    def load(self, model: Any, tok: Any, hparams: Any, folder: Path) -> None:
        """Give an unedited model the edits that a folder holds."""


class Snapshots:
    """Keeps the latest two snapshots of a method's state: the last that a journal knows is always among them.

    Args:
        whole: writes and reads one.
    """

    def __init__(self, whole: WholeState) -> None:
        self.whole = whole

    def save(self, model: Any, folder: Path, case_ids: Sequence[int | str] = ()) -> None:
        """Write a snapshot; it is there whole or not at all.

        Args:
            model: the edited model.
            folder: holds the snapshots.
            case_ids: the requests whose edits the model carries; their number is the snapshot's.

        Raises:
            OSError: it can't be written.
            RunError: likewise.
        """
        target, temporary = folder / _NAME.format(len(case_ids)), folder / ".writing"
        for leftover in (temporary, target):  # of a run that was killed in between
            shutil.rmtree(leftover, ignore_errors=True)
        earlier = self._numbers(folder)
        temporary.mkdir(parents=True)
        try:
            self.whole.save(model, temporary)
        except SafetensorError as error:  # its way of saying that the disk is full
            raise RunError(f"{target}: can't be written: {error}. What was written before stays.") from error
        for path in temporary.rglob("*"):
            sync(path)
        sync(temporary)
        os.replace(temporary, target)
        sync(folder)
        keep = max((number for number in earlier if number < len(case_ids)), default=None)
        for number in earlier:
            if number != keep:
                shutil.rmtree(folder / _NAME.format(number), ignore_errors=True)

    def load(
        self, model: Any, tok: Any, hparams: Any, folder: Path, case_ids: Sequence[int | str] | None = None
    ) -> None:
        """Give an unedited model the edits of these requests; those of the latest snapshot, if none are named.

        Raises:
            RunError: there is no such snapshot, or it can't be read.
            ModelError: it is another model's.
        """
        numbers = self._numbers(folder)
        number = len(case_ids) if case_ids is not None else max(numbers, default=0)
        path = folder / _NAME.format(number)
        if number not in numbers:
            raise RunError(f"{path}: the edits as they were after edit {number} aren't there; can't resume this run")
        try:
            self.whole.load(model, tok, hparams, path)
        except LifelongError:  # some are ValueErrors
            raise
        except (OSError, SafetensorError, ValueError) as error:
            raise RunError(f"{path}: can't be read: {error}. The state in {folder} isn't whole.") from error

    def carries(self, model: Any) -> bool:
        """Tell whether a model carries edits, as far as the method can tell."""
        tells = getattr(self.whole, "carries", None)
        return tells is not None and bool(tells(model))

    def _numbers(self, folder: Path) -> list[int]:
        names = [path.name.removeprefix("after-") for path in folder.glob("after-*")]
        return sorted(int(name) for name in names if name.isdecimal())
