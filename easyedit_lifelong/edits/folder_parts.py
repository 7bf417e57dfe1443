"""Read and write an edits folder as parts, one for each editor; no model is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from easyedit_lifelong.clock import now
from easyedit_lifelong.edits.appended_steps import delete_other_steps, new_name_of_steps, with_appended
from easyedit_lifelong.edits.edits_folder import (
    FORMAT_VERSION,
    INDEX,
    MANY_VERSION,
    STEPS_VERSION,
    lock_edits,
    read_index,
)
from easyedit_lifelong.edits.folder_tensors import read_folder, write_folder
from easyedit_lifelong.edits.record_columns import read_records, record_columns
from easyedit_lifelong.edits.step_entries import step_count, step_entries, step_file
from easyedit_lifelong.edits.step_files import read_steps
from easyedit_lifelong.edits.step_states import read_old_state
from easyedit_lifelong.errors import PluginError, RunError
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.edit_stores import AppendableEditStore, EditsPart, are_many
from easyedit_lifelong.methods.shared.editors import base_fingerprint
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.versions import package_versions

_PART_TYPES = {"method": str, "hparams": dict, "edits": Sequence, "state": dict}
"""The keys of a part in the index, and the types of their values. In format version 3, tensors hold ``edits``."""


@dataclass(frozen=True)
class SavedEdits:
    """The content of an edits folder.

    Attributes:
        path: the index file, for messages.
        index: the content of the index.
        model: name of the model that the edits were made on.
        fingerprint: the fingerprint of that model's weights.
        parts: the method's name and the edits of each editor.
        appended: the number of steps that were appended to the folder.
    """

    path: Path
    index: dict[str, Any]
    model: str
    fingerprint: str
    parts: list[tuple[str, EditsPart]]
    appended: int = 0


def read_edits(folder: Path) -> SavedEdits:
    """Read an edits folder: one that ``save_edits`` wrote, or the ``state/`` of a run of this version or 0.1.

    Raises:
        RunError: the folder holds no edits, is incomplete or damaged, or has a newer format; the message names the
            file.
    """
    path = folder / INDEX
    if not path.exists() and (old := _read_old_edits(folder)) is not None:
        return old
    index, tensors = read_folder(folder)
    appended = 0
    try:
        name, fingerprint = index["model"]["name"], index["model"]["fingerprint"]
        if index["format_version"] == STEPS_VERSION:
            parts = [_join_steps(folder, part["method"], part["hparams"]) for part in index["parts"]]
        else:
            parts, appended = with_appended(folder, index, _split_into_parts(path, index, tensors))
    except (KeyError, TypeError) as error:
        raise RunError(f"{path}: lacks {error}; it isn't the index of saved edits") from error
    return SavedEdits(path, index, name, fingerprint, parts, appended)


def read_description(folder: Path) -> dict[str, Any]:
    """Return the index of an edits folder of any format, with the edits of each part.

    Raises:
        RunError: the folder holds no edits, its index is damaged, or it has a newer format; the message names the
            file.
    """
    if not (folder / INDEX).exists() and (old := _read_old_edits(folder)) is not None:
        parts = [{"method": method, "hparams": part.hparams, "edits": part.edits} for method, part in old.parts]
        return {**old.index, "model": {"name": old.model, "fingerprint": old.fingerprint}, "parts": parts}
    index = read_index(folder)
    if index["format_version"] == MANY_VERSION:
        saved = read_edits(folder)
        parts = [{**entry, "edits": part.edits} for entry, (_, part) in zip(index["parts"], saved.parts, strict=True)]
        return {**index, "parts": parts}
    if index["format_version"] == STEPS_VERSION:
        edits = [edit for entry in step_entries(folder) for edit in entry.edits]
        index["parts"] = [{**part, "edits": edits} for part in index["parts"]]
    return index


def _split_into_parts(path: Path, index: dict[str, Any], tensors: dict[str, Tensor]) -> list[tuple[str, EditsPart]]:
    """Return the parts of an index of format version 1 or 3, each with its tensors.

    Args:
        path: the index, for messages.
        index: its content.
        tensors: the tensors of all parts; their names begin with the part's number and a dot.

    Raises:
        KeyError: a part is incomplete.
        RunError: a part is damaged.
    """
    parts = index["parts"]
    if index["format_version"] == MANY_VERSION:
        try:
            parts = [{**part, "edits": read_records(number, tensors)} for number, part in enumerate(parts)]
        except ValueError as error:
            raise RunError(f"{path}: isn't the index of saved edits: {error}") from error
    if not all(isinstance(part[key], expected) for part in parts for key, expected in _PART_TYPES.items()):
        raise RunError(f"{path}: a part holds a value of the wrong type; it isn't the index of saved edits")
    named_parts = []
    for number, part in enumerate(parts):
        prefix = f"{number}."
        own_tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        named_parts.append((part["method"], EditsPart(part["hparams"], part["edits"], part["state"], own_tensors)))
    return named_parts


def _join_steps(folder: Path, method: str, hparams: dict[str, Any]) -> tuple[str, EditsPart]:
    """Return the steps of a state folder as one part, with the method's name.

    Raises:
        RunError: a file cannot be read, or there is none.
    """
    store = method_of(method, folder / INDEX).edits
    if not isinstance(store, AppendableEditStore):
        raise PluginError(f"{folder / INDEX}: method {method!r} can't load the edits of a run")
    steps, _ = read_steps(folder, hparams)
    if not steps:
        raise RunError(f"{folder / INDEX}: the files of the edits, {step_file(folder, 1).name} and so on, are missing")
    return method, store.join(steps, str(folder / INDEX))


def _read_old_edits(folder: Path) -> SavedEdits | None:
    """Return the edits of a state folder that version 0.1 wrote; None if the folder is not one."""
    method_and_state = read_old_state(folder)
    if method_and_state is None:
        return None
    method, old = method_and_state
    store = get_plugins().methods.get(method).edits
    assert isinstance(store, AppendableEditStore)
    parts = [(method, store.join(old.steps, str(old.path)))] if old.steps else []
    index = {"format_version": 0, "saved": "", "versions": {}}
    return SavedEdits(old.path, index, old.model, old.fingerprint, parts)


def method_of(name: str, where: object) -> EditMethod:
    """Return the registered method of this name.

    Args:
        name: the method's name.
        where: the file that names the method, for messages.

    Raises:
        PluginError: no method of this name is registered.
    """
    try:
        return get_plugins().methods.get(name)
    except PluginError as error:
        raise PluginError(f"{where}: {error}") from error


def provenance(model: Any, fingerprint: str | None = None) -> dict[str, Any]:
    """Return the entries of an index that describe the model, the time and the package versions.

    Args:
        model: the model.
        fingerprint: the fingerprint of its unedited weights, if the caller knows it.
    """
    return _provenance(model_label(model), fingerprint or base_fingerprint(model))


def _provenance(model: str, fingerprint: str) -> dict[str, Any]:
    """Return the entries of :func:`provenance`, given the model's name and fingerprint."""
    return {
        "saved": now(),
        "model": {"name": model, "fingerprint": fingerprint},
        "versions": package_versions(),
    }


def write_edits(
    folder: Path, model: str, fingerprint: str, parts: Sequence[tuple[str, EditsPart]], *, replace: bool = True
) -> dict[str, Any]:
    """Write edits to a folder, in place of those that it holds, in one step.

    Args:
        folder: the folder; made if it does not exist.
        model: name of the model that the edits were made on.
        fingerprint: the fingerprint of that model's unedited weights.
        parts: the method's name and the edits of each editor.
        replace: whether to replace edits that the folder holds.

    Returns:
        The folder's index.

    Raises:
        RunError: the folder can't be written, is the state folder of a run, which must not be overwritten, or holds
            edits that are not to be replaced.
    """
    check_not_a_state(folder)
    serialized: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    many = are_many(sum(len(part.edits) for _, part in parts))
    for number, (method, part) in enumerate(parts):
        tensors |= {f"{number}.{name}": tensor for name, tensor in part.tensors.items()}
        if many:
            tensors |= record_columns(number, part.edits)
        edits = {} if many else {"edits": list(part.edits)}
        serialized.append({"method": method, "hparams": part.hparams, **edits, "state": part.state})
    with lock_edits(folder):
        if not replace:
            check_no_edits(folder)
        version = MANY_VERSION if many else FORMAT_VERSION
        contents = _provenance(model, fingerprint) | (new_name_of_steps() if many else {}) | {"parts": serialized}
        write_folder(folder, contents, tensors, version)
        index = read_index(folder)
        delete_other_steps(folder, index)
    return index


def check_no_edits(folder: Path) -> None:
    """Check that a folder holds no edits.

    Raises:
        RunError: it holds edits.
    """
    if (folder / INDEX).exists():
        raise RunError(f"{folder}: holds edits already; name another folder")


def check_not_a_state(folder: Path) -> None:
    """Check that a folder is not the state folder of a run.

    Raises:
        RunError: it is a state folder.
    """
    if step_count(folder) or (not (folder / INDEX).exists() and read_old_state(folder, tensors=False) is not None):
        raise RunError(f"{folder}: is the state of a run, which needs its edits to be resumed; name another folder")
