"""Append edits to a folder of many edits: each in its own file, so that the others are not rewritten.

The names of these files begin as the folder's index says, with random characters that every complete save draws anew.
So files that it leaves behind do not count. Like the step files of a run's state, each has a digest of itself and of
all before it.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from easyedit_lifelong.edits.edits_folder import MANY_VERSION, folder_write_errors, lock_edits, read_index
from easyedit_lifelong.edits.step_entries import digest_of_step, step_count, step_file
from easyedit_lifelong.edits.step_files import read_steps, write_step
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.edit_stores import EditsPart, ExtendableEditStore, are_many
from easyedit_lifelong.plugins import get_plugins

_NAME = "appended"
"""The entry of an index that says how the names of appended steps begin."""


@dataclass(frozen=True)
class _Saved:
    """What a folder holds of a model's edits, as far as this process knows.

    Attributes:
        method: the method that made the edits.
        index: the content of the folder's index.
        steps: the number of appended steps.
        digest: the chained digest of the last of them; without any, that of the folder's tensors.
        count: the number of edits.
        last: the last of them: the object in the store's history.
    """

    method: str
    index: dict[str, Any]
    steps: int
    digest: str
    count: int
    last: object


_SAVED: weakref.WeakKeyDictionary[Any, dict[Path, _Saved]] = weakref.WeakKeyDictionary()


def appended_count(folder: Path, index: Mapping[str, Any]) -> int:
    """Return the number of steps that were appended to a folder with this index."""
    return step_count(folder, _stem(index)) if index["format_version"] == MANY_VERSION else 0


def new_name_of_steps() -> dict[str, str]:
    """Return the entry of an index that says how the names of appended steps begin."""
    return {_NAME: f"appended-{secrets.token_hex(8)}"}


def with_appended(
    folder: Path, index: Mapping[str, Any], parts: list[tuple[str, EditsPart]]
) -> tuple[list[tuple[str, EditsPart]], int]:
    """Return the parts of a folder with the edits that were appended to it, and the number of appended steps.

    Args:
        folder: the folder.
        index: its index.
        parts: the method's name and the edits of each part of the index.

    Raises:
        RunError: an appended file is damaged, or belongs to another folder.
    """
    if not appended_count(folder, index):
        return parts, 0
    where = str(step_file(folder, 1, _stem(index)))
    store = _extendable_store(parts[0][0]) if len(parts) == 1 else None
    if store is None:
        raise RunError(f"{where}: no edits can be appended to those of this folder")
    ((method, part),) = parts
    steps, _ = read_steps(folder, part.hparams, stem=_stem(index), before=index["tensors"])
    return [(method, store.extended(part, steps, where))], len(steps)


def delete_other_steps(folder: Path, index: Mapping[str, Any]) -> None:
    """Delete the appended steps that a complete save left behind.

    Args:
        folder: the folder.
        index: its index.

    Raises:
        RunError: the folder can't be written.
    """
    with folder_write_errors(folder, "the edits"):
        for path in folder.glob("appended-*.safetensors"):
            if index["format_version"] != MANY_VERSION or not path.name.startswith(_stem(index)):
                path.unlink(missing_ok=True)


def remember_saved(model: Any, folder: Path, index: dict[str, Any], steps: int = 0) -> None:
    """Remember that a folder holds all edits of a model, if further edits can be appended to it.

    Call this while the model is locked, with what was written or read: another process can have replaced it since.

    Args:
        model: the model.
        folder: the folder.
        index: the index of its edits.
        steps: the number of appended steps among them.
    """
    folders = _SAVED.setdefault(model, {})
    folders.pop(folder.resolve(), None)
    if index["format_version"] != MANY_VERSION or len(index["parts"]) != 1:
        return
    method = index["parts"][0]["method"]
    history = _only_history(model, method)
    if history:
        with contextlib.suppress(RunError):  # the last step is gone if another process has replaced the edits
            digest = digest_of_step(step_file(folder, steps, _stem(index))) if steps else index["tensors"]
            folders[folder.resolve()] = _Saved(method, index, steps, digest, len(history), history[-1])


def append_new_edits(model: Any, folder: Path) -> bool:
    """Append a model's new edits to a folder that holds all others; return False if it must be written as a whole.

    The latter is so if the folder isn't one of many edits, if it was not loaded onto the model or saved from it by this
    process, if it or the model's earlier edits have changed since, or if the folder has many appended steps.

    Raises:
        RunError: the folder can't be read or written.
    """
    saved = _SAVED.get(model, {}).get(folder.resolve())
    history = None if saved is None else _only_history(model, saved.method)
    if saved is None or not history or len(history) < saved.count or history[saved.count - 1] is not saved.last:
        return False
    store = _extendable_store(saved.method)
    assert store is not None
    steps = list(store.steps(model, saved.count))
    same_hparams = all(step.hparams == saved.index["parts"][0]["hparams"] for step in steps)
    if not same_hparams or are_many(saved.steps + len(steps)):
        return False
    with lock_edits(folder), folder_write_errors(folder, "the edits"):
        if not _is_as_saved(folder, saved):
            return False
        for step in steps:
            number = saved.steps + 1
            digest = write_step(step_file(folder, number, _stem(saved.index)), step, saved.digest)
            last = history[saved.count]
            saved = replace(saved, steps=number, digest=digest, count=saved.count + 1, last=last)
            _SAVED[model][folder.resolve()] = saved
    return True


def _is_as_saved(folder: Path, saved: _Saved) -> bool:
    """Whether no other process has changed a folder since."""
    with contextlib.suppress(RunError):
        return read_index(folder) == saved.index and appended_count(folder, saved.index) == saved.steps
    return False


def _only_history(model: Any, method: str) -> Sequence[object] | None:
    """Return the history of a method's edits on a model; None if edits can't be appended, or others are on it."""
    store = _extendable_store(method)
    others = (other.edits for other in get_plugins().methods if other.name != method and other.edits is not None)
    if store is None or any(other.parts(model) for other in others):
        return None
    with contextlib.suppress(RunError):  # several layers carry edits
        return store.history(model)
    return None


def _extendable_store(method: str) -> ExtendableEditStore | None:
    """Return a method's edit store if edits can be appended to a folder of many edits of the method."""
    store = get_plugins().methods.get(method).edits
    return store if isinstance(store, ExtendableEditStore) else None


def _stem(index: Mapping[str, Any]) -> str:
    """Return how the names of the steps begin that were appended to a folder with this index.

    Raises:
        RunError: the index names files elsewhere, or none.
    """
    name = index.get(_NAME)
    if not isinstance(name, str) or not re.fullmatch(r"appended-[0-9a-f]+", name):
        raise RunError(f"the index of the edits says that the names of appended files begin with {name!r}")
    return name
