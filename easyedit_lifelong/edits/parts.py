"""A folder of edits taken apart into one part for each editor, and put together from them; no model is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from easyedit_lifelong.clock import now
from easyedit_lifelong.edits.edits_folder import INDEX, STEPS_VERSION, read_index, read_tensors, write_folder
from easyedit_lifelong.edits.step_files import read_steps, step_count, step_entries
from easyedit_lifelong.errors import PluginError, RunError
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.edit_stores import AppendableEditStore, EditsPart, OldState, OldStateReader
from easyedit_lifelong.methods.shared.editors import base_fingerprint
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.versions import package_versions

_PART = {"method": str, "hparams": dict, "edits": list, "state": dict}


@dataclass(frozen=True)
class SavedEdits:
    """What a folder holds.

    Attributes:
        path: its index, for messages.
        index: what the index says.
        model: name of the model that the edits were made on.
        fingerprint: of that model's weights.
        parts: each editor's method and edits.
    """

    path: Path
    index: dict[str, Any]
    model: str
    fingerprint: str
    parts: list[tuple[str, EditsPart]]


def read_edits(folder: Path) -> SavedEdits:
    """Read a folder of edits: one that ``save_edits`` wrote, or a run's ``state/``, of this version or 0.1.

    Raises:
        RunError: there are none in it, or they aren't whole, or of a newer format; the message names the file.
    """
    path = folder / INDEX
    if not path.exists() and (old := _old_edits(folder)) is not None:
        return old
    index = read_index(folder)
    try:
        name, fingerprint = index["model"]["name"], index["model"]["fingerprint"]
        if index["format_version"] == STEPS_VERSION:
            parts = [_joined(folder, part["method"], part["hparams"]) for part in index["parts"]]
        else:
            parts = _unpacked(path, index["parts"], read_tensors(folder, index))
    except (KeyError, TypeError) as error:
        raise RunError(f"{path}: lacks {error}; it isn't the index of saved edits") from error
    return SavedEdits(path, index, name, fingerprint, parts)


def read_description(folder: Path) -> dict[str, Any]:
    """Return the index of a folder of edits of any format, with the edits of every part, without reading tensors.

    Raises:
        RunError: there are none in it, or the index isn't whole, or of a newer format; the message names the file.
    """
    if not (folder / INDEX).exists() and (old := _old_edits(folder)) is not None:
        parts = [{"method": method, "hparams": part.hparams, "edits": part.edits} for method, part in old.parts]
        return {**old.index, "model": {"name": old.model, "fingerprint": old.fingerprint}, "parts": parts}
    index = read_index(folder)
    if index["format_version"] == STEPS_VERSION:
        edits = [edit for entry in step_entries(folder) for edit in entry["edits"]]
        index["parts"] = [{**part, "edits": edits} for part in index["parts"]]
    return index


def read_step_states(folder: Path) -> list[tuple[list[dict[str, Any]], dict[str, Any]]]:
    """Return of each step in a run's state the records of its edits and the method's state, without tensors.

    A folder without steps has none.

    Raises:
        RunError: a file in it can't be read.
    """
    old = None if (folder / INDEX).exists() else _old_state(folder, tensors=False)
    steps = [] if old is None else old[1].steps
    return [(part.edits, part.state) for part in steps] or [
        (entry["edits"], entry["state"]) for entry in step_entries(folder)
    ]


def _unpacked(path: Path, parts: Sequence[Any], tensors: dict[str, Tensor]) -> list[tuple[str, EditsPart]]:
    if not all(isinstance(part[name], kind) for part in parts for name, kind in _PART.items()):
        raise RunError(f"{path}: a part is of another kind; it isn't the index of saved edits")
    unpacked = []
    for number, part in enumerate(parts):
        prefix = f"{number}."
        own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        unpacked.append((part["method"], EditsPart(part["hparams"], part["edits"], part["state"], own)))
    return unpacked


def _joined(folder: Path, method: str, hparams: dict[str, Any]) -> tuple[str, EditsPart]:
    store = method_of(method, folder / INDEX).edits
    if not isinstance(store, AppendableEditStore):
        raise PluginError(f"{folder / INDEX}: method {method!r} can't put the edits of a run together")
    steps, _ = read_steps(folder, hparams)
    return method, store.join(steps, str(folder / INDEX))


def _old_edits(folder: Path) -> SavedEdits | None:
    """Return the edits of a run's state that version 0.1 wrote; None if there is none."""
    found = _old_state(folder)
    if found is None:
        return None
    method, old = found
    store = get_plugins().methods.get(method).edits
    assert isinstance(store, AppendableEditStore)
    parts = [(method, store.join(old.steps, str(old.path)))] if old.steps else []
    index = {"format_version": 0, "saved": "", "versions": {}}
    return SavedEdits(old.path, index, old.model, old.fingerprint, parts)


def _old_state(folder: Path, *, tensors: bool = True) -> tuple[str, OldState] | None:
    """Return a run's state that version 0.1 wrote, and the name of its method."""
    for method in get_plugins().methods:
        if isinstance(method.edits, OldStateReader):
            old = method.edits.read_old_state(folder, tensors=tensors)
            if old is not None:
                return method.name, old
    return None


def method_of(name: str, where: object) -> EditMethod:
    """Return the method of that name.

    Args:
        name: the method's.
        where: the file that names it, for messages.

    Raises:
        PluginError: no such method is registered.
    """
    try:
        return get_plugins().methods.get(name)
    except PluginError as error:
        raise PluginError(f"{where}: {error}") from error


def description(model: Any) -> dict[str, Any]:
    """Return what an index says of when, on what and with which versions edits were made."""
    return _description(model_label(model), base_fingerprint(model))


def _description(model: str, fingerprint: str) -> dict[str, Any]:
    return {
        "saved": now(),
        "model": {"name": model, "fingerprint": fingerprint},
        "versions": package_versions(),
    }


def write_edits(folder: Path, model: str, fingerprint: str, parts: Sequence[tuple[str, EditsPart]]) -> None:
    """Make a folder hold these edits, in place of those that it may hold, in one step.

    Args:
        folder: made if it isn't there.
        model: name of the model that the edits were made on.
        fingerprint: of its unedited weights.
        parts: each editor's method and edits.

    Raises:
        RunError: it can't be written, or is the state of a run, which other edits would destroy.
    """
    check_not_a_state(folder)
    serialized: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    for number, (method, part) in enumerate(parts):
        tensors |= {f"{number}.{name}": tensor for name, tensor in part.tensors.items()}
        serialized.append({"method": method, "hparams": part.hparams, "edits": part.edits, "state": part.state})
    write_folder(folder, {**_description(model, fingerprint), "parts": serialized}, tensors)


def check_not_a_state(folder: Path) -> None:
    """Check that a folder isn't the state of a run.

    Raises:
        RunError: it is.
    """
    if step_count(folder) or (not (folder / INDEX).exists() and _old_state(folder, tensors=False) is not None):
        raise RunError(f"{folder}: is the state of a run, which needs its edits to be resumed; name another folder")
