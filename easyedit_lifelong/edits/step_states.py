"""The records and states of the steps in a run's state folder, of this version or 0.1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from easyedit_lifelong.edits.edits_folder import INDEX
from easyedit_lifelong.edits.step_entries import step_entries
from easyedit_lifelong.methods.edit_stores import OldState, OldStateReader
from easyedit_lifelong.plugins import get_plugins


def read_step_states(folder: Path) -> list[tuple[list[dict[str, Any]], dict[str, Any]]]:
    """Return the records of the edits and the method's state of each step in a state folder; tensors are not read.

    Raises:
        RunError: a file in the folder can't be read.
    """
    if not (folder / INDEX).exists() and (method_and_state := read_old_state(folder, tensors=False)) is not None:
        _, old = method_and_state
        if old.steps:
            return [(list(part.edits), part.state) for part in old.steps]
    return [(entry.edits, entry.state) for entry in step_entries(folder)]


def read_old_state(folder: Path, *, tensors: bool = True) -> tuple[str, OldState] | None:
    """Return the method's name and the content of a state folder that version 0.1 wrote; None if it is not one."""
    if not any(folder.glob("*")):
        return None
    for method in get_plugins().methods:
        if isinstance(method.edits, OldStateReader):
            old = method.edits.read_old_state(folder, tensors=tensors)
            if old is not None:
                return method.name, old
    return None
