"""A folder of edits taken apart into one part for each editor, and put together from them; no model is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from easyedit_lifelong.clock import now
from easyedit_lifelong.edits.edits_folder import INDEX, read_folder, write_folder
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.base import EditsPart
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
    """Read a folder of edits.

    Raises:
        RunError: there are none in it, or they aren't whole, or of a newer format; the message names the file.
    """
    path = folder / INDEX
    index, tensors = read_folder(folder)
    try:
        made_on, parts = index["model"], index["parts"]
        whole = all(isinstance(part[name], kind) for part in parts for name, kind in _PART.items())
        name, fingerprint = made_on["name"], made_on["fingerprint"]
    except (KeyError, TypeError) as error:
        raise RunError(f"{path}: lacks {error}; it isn't the index of saved edits") from error
    if not whole:
        raise RunError(f"{path}: a part is of another kind; it isn't the index of saved edits")
    unpacked = []
    for number, part in enumerate(parts):
        prefix = f"{number}."
        own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        unpacked.append((part["method"], EditsPart(part["hparams"], part["edits"], part["state"], own)))
    return SavedEdits(path, index, name, fingerprint, unpacked)


def write_edits(folder: Path, model: str, fingerprint: str, parts: Sequence[tuple[str, EditsPart]]) -> None:
    """Have a folder hold these edits, in place of those that it may hold, in one step.

    Args:
        folder: made if it isn't there.
        model: name of the model that the edits were made on.
        fingerprint: of its unedited weights.
        parts: each editor's method and edits.

    Raises:
        RunError: it can't be written.
    """
    packed: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    for number, (method, part) in enumerate(parts):
        tensors |= {f"{number}.{name}": tensor for name, tensor in part.tensors.items()}
        packed.append({"method": method, "hparams": part.hparams, "edits": part.edits, "state": part.state})
    contents = {
        "saved": now(),
        "model": {"name": model, "fingerprint": fingerprint},
        "versions": package_versions(),
        "parts": packed,
    }
    write_folder(folder, contents, tensors)
