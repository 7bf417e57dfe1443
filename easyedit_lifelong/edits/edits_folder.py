"""The files of a folder of edits, and how damage to them shows (docs/edits.md has the format).

``edits.json`` says what the edits are and carries a digest of itself. Their tensors are either in one file,
``edits.safetensors``, whose digest is in the index (format version 1, ``save_edits``), or in one file for each step,
whose digests are chained (format version 2, a run's ``state/``). Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from easyedit_lifelong.atomic import replace_text, replacing, sync
from easyedit_lifelong.errors import RunError

INDEX = "edits.json"
TENSORS = "edits.safetensors"
FORMAT = "easyedit_lifelong edits"
FORMAT_VERSION = 1
"""All edits in one file of tensors."""
STEPS_VERSION = 2
"""A file for each step: see :mod:`easyedit_lifelong.edits.step_files`."""

_NEW = f"{TENSORS}.new"
_CHUNK = 1 << 22


def write_folder(folder: Path, contents: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Have a folder hold these edits, in place of those that it may hold.

    Killed at any moment, it holds the old ones or the new: tensors are written beside the old ones, the index
    names which are meant by their digest, and they get their name last.

    Args:
        folder: made if it isn't there.
        contents: what the index says, beside what this module puts there.
        tensors: by name.

    Raises:
        RunError: it can't be written.
    """
    with writing(folder, "the edits"):
        folder.mkdir(parents=True, exist_ok=True)
        _finish_interrupted(folder)
        with replacing(folder / _NEW) as temporary:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
        write_index(folder, FORMAT_VERSION, {**contents, "tensors": _digest_of(folder / _NEW)})
        os.replace(folder / _NEW, folder / TENSORS)
        sync(folder)


def _finish_interrupted(folder: Path) -> None:
    """Give the tensors that an index names their name, if a write was killed before it could."""
    if not (folder / _NEW).exists():
        return
    try:
        named = read_index(folder).get("tensors")
    except RunError:
        return
    if named and not _holds(folder / TENSORS, named) and _holds(folder / _NEW, named):
        os.replace(folder / _NEW, folder / TENSORS)
        sync(folder)


def write_index(folder: Path, version: int, contents: Mapping[str, Any]) -> None:
    """Write a folder's index.

    Raises:
        OSError: it cannot be written.
    """
    index = {"format": FORMAT, "format_version": version, **contents}
    index["digest"] = _digest(index)
    replace_text(folder / INDEX, json.dumps(index, indent=1, ensure_ascii=False) + "\n")


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what a folder's index says, and the tensors, of a folder that has them in one file.

    Raises:
        RunError: there are no edits in it, or they aren't whole, or of a newer format; the message names the file.
    """
    index = read_index(folder)
    return index, read_tensors(folder, index)


def read_tensors(folder: Path, index: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return an index's tensors.

    Raises:
        RunError: they aren't there, or aren't what the index was written with.
    """
    path = tensors_file(folder, index)
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise RunError(f"{path}: can't be read: {error}. {_BROKEN}") from error


def tensors_file(folder: Path, index: Mapping[str, Any]) -> Path:
    """Return the file that holds an index's tensors.

    Raises:
        RunError: there is none, or it isn't what the index was written with.
    """
    path = next((folder / name for name in (TENSORS, _NEW) if _holds(folder / name, index["tensors"])), None)
    if path is None:
        raise RunError(f"{folder / TENSORS}: isn't there, or isn't what {INDEX} was written with. {_BROKEN}")
    return path


def read_index(folder: Path) -> dict[str, Any]:
    """Return what a folder's index says.

    Raises:
        RunError: there is none, it isn't whole, or of a newer format; the message names the file.
    """
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        ours, version = index["format"] == FORMAT, index["format_version"]
    except FileNotFoundError:
        there = folder / "state" / INDEX
        hint = f"; the edits of this run are in {there.parent}" if there.exists() else ""
        raise RunError(f"{path}: no such file; this folder holds no saved edits{hint}") from None
    except OSError as error:
        raise RunError(f"{path}: can't be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{path}: isn't the index of saved edits. {_BROKEN}") from error
    if not ours or type(version) is not int or version < 1:
        raise RunError(f"{path}: isn't the index of saved edits")
    if version > STEPS_VERSION:
        raise RunError(
            f"{path}: has format version {version}; this package knows versions up to {STEPS_VERSION}. "
            "Update easyedit_lifelong."
        )
    if index.pop("digest", None) != _digest(index):
        raise RunError(f"{path}: has been changed since it was written. {_BROKEN}")
    return dict(index)


@contextlib.contextmanager
def writing(folder: Path, what: str) -> Iterator[None]:
    """Turn what goes wrong with a disk inside into an error that says what couldn't be written.

    Raises:
        RunError: it couldn't.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"{folder}: {what} can't be written: {reason}. What was written stays.") from error


def check_empty(folder: Path) -> Path:
    """Return a folder's path in full if nothing is there, or an empty folder.

    Raises:
        RunError: it isn't a folder, or something is in it.
    """
    folder = folder.expanduser().absolute()
    try:
        held = sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return folder
    except OSError as error:
        raise RunError(f"{folder}: isn't a folder that can be used: {error.strerror}") from error
    if held:
        raise RunError(f"{folder}: holds {held[0]} already; nothing will be overwritten. Name a new or empty folder.")
    return folder


_BROKEN = "The folder isn't whole; copy it again from where it came from, or save the edits again."


def _digest(index: Mapping[str, Any]) -> str:
    """Return the digest of an index, however it is laid out."""
    text = json.dumps(index, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _digest_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _holds(path: Path, digest: Any) -> bool:
    try:
        return _digest_of(path) == digest
    except FileNotFoundError:
        return False
    except OSError as error:
        raise RunError(f"{path}: can't be read: {error.strerror}") from error
