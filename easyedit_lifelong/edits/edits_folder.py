"""The files of an edits folder, and the digests that reveal damage to them (docs/edits.md describes the format).

The index, ``edits.json``, describes the edits and holds a digest of itself. The tensors are either in one file,
``edits.safetensors``, whose digest is in the index (format version 1, ``save_edits``), or in one file for each step,
whose digests are chained (format version 2, a run's ``state/``). Where there are many edits, the index leaves out their
records, which are among the tensors (format version 3, ``save_edits``). Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from easyedit_lifelong.atomic import atomic_file, fsync_path, write_text_atomically
from easyedit_lifelong.digests import chunked_digest, file_digest
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.folder_lock import locked_folder
from easyedit_lifelong.parsing import parse_json
from easyedit_lifelong.paths import expanded_path

INDEX = "edits.json"
TENSORS = "edits.safetensors"
FORMAT = "easyedit_lifelong edits"
FORMAT_VERSION = 1
"""The format version of a folder with all tensors in one file."""
STEPS_VERSION = 2
"""The format version of a folder with a file for each step: see :mod:`easyedit_lifelong.edits.step_files`."""

MANY_VERSION = 3
"""The format version of a folder of many edits, which has their records among its tensors."""

NEW_TENSORS = f"{TENSORS}.new"
"""Tensors that were written, but not yet renamed to :data:`TENSORS`."""
_WAIT_SECONDS = 20


def lock_edits(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Return a context inside which no other process or thread can write to an edits folder. Such contexts can nest.

    Whoever reads edits and then replaces them must do both inside one context; otherwise, edits that another process
    wrote in between are lost. The folder is made if it does not exist.

    Raises:
        RunError: another process has kept the folder locked for too long, or the folder cannot be written to.
    """
    return locked_folder(folder, work="changing these edits", timeout=_WAIT_SECONDS, reentrant=True)


def write_folder(
    folder: Path, contents: Mapping[str, Any], tensors: Mapping[str, Tensor], version: int = FORMAT_VERSION
) -> None:
    """Write edits to a folder, in place of those that it holds.

    If the process is killed, the folder holds either the old edits or the new ones: the new tensors are written beside
    the old ones, then the index, which holds the digest of its tensors, and at last the new tensors are renamed.

    Args:
        folder: the folder; made if it does not exist.
        contents: the entries of the index, without format, version and digests.
        tensors: the tensors by name.
        version: the format version.

    Raises:
        RunError: the folder can't be written.
    """
    check_utf8(folder)
    with lock_edits(folder), translate_write_errors(folder, "the edits"):
        _finish_interrupted(folder)
        with atomic_file(folder / NEW_TENSORS) as temporary:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
        write_index(folder, version, {**contents, "tensors": tensors_digest(folder / NEW_TENSORS, version)})
        os.replace(folder / NEW_TENSORS, folder / TENSORS)
        fsync_path(folder)


def _finish_interrupted(folder: Path) -> None:
    """Rename new tensors that the index refers to, if a process was killed before it could rename them."""
    if not (folder / NEW_TENSORS).exists():
        return
    try:
        index = read_index(folder)
    except RunError:
        return
    if "tensors" in index and not _has_tensors(folder / TENSORS, index) and _has_tensors(folder / NEW_TENSORS, index):
        os.replace(folder / NEW_TENSORS, folder / TENSORS)
        fsync_path(folder)


def write_index(folder: Path, version: int, contents: Mapping[str, Any]) -> None:
    """Write a folder's index.

    Args:
        folder: the folder.
        version: the format version.
        contents: the other entries; the format's name and the index's digest are added.

    Raises:
        OSError: the index cannot be written.
    """
    index = {"format": FORMAT, "format_version": version, **contents}
    index["digest"] = _index_digest(index)
    write_text_atomically(folder / INDEX, json.dumps(index, indent=1, ensure_ascii=False) + "\n")


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the index and the tensors of a folder. A folder of format version 2 has its tensors in files of steps.

    If another process replaces the edits meanwhile, the new ones are returned.

    Raises:
        RunError: the folder holds no edits, is damaged, or has a newer format; the message names the file.
    """
    index = read_index(folder)
    if index["format_version"] == STEPS_VERSION:
        return index, {}
    failures = 0
    while True:
        try:
            tensors: dict[str, Tensor] | None = _read_tensors(folder, index)
        except RunError:
            failures += 1
            if failures > 1 and read_index(folder) == index:
                raise
            tensors = None  # a writer may just have renamed the file
        present = read_index(folder)  # a writer replaces the index before the tensors
        if present != index:
            index, failures = present, 0
        elif tensors is not None:
            return index, tensors


def _read_tensors(folder: Path, index: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors that belong to an index, by name.

    Raises:
        RunError: their file is missing, damaged, or belongs to another index.
    """
    path = tensors_file(folder, index)
    try:
        tensors = load_file(path)  # memory-mapped
        if index["format_version"] != MANY_VERSION:  # of many edits, only the digest is checked, which takes less time
            check_finite(tensors)
    except (OSError, SafetensorError, ValueError) as error:
        check_utf8(folder)
        raise RunError(f"{path}: can't be read: {error}. {_DAMAGED}") from error
    return tensors


def check_utf8(folder: Path) -> None:
    """Check that the path of a folder is valid UTF-8: safetensors can't open other files.

    Raises:
        RunError: it is not.
    """
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError:
        raise RunError(
            f"{folder}: this path is not valid UTF-8, so tensors in it can't be read. Give the folder another name."
        ) from None


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Check that tensors of edits hold only finite numbers.

    Raises:
        ValueError: one doesn't; the message names it.
    """
    for name, tensor in tensors.items():
        if tensor.is_complex() or not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"the tensor {name!r} holds NaN, infinity or complex numbers")


def tensors_file(folder: Path, index: Mapping[str, Any]) -> Path:
    """Return the file with the tensors that belong to an index.

    Raises:
        RunError: no file has the digest that the index names.
    """
    names = (NEW_TENSORS, TENSORS)  # in this order: new tensors are renamed at any time
    path = next((folder / name for name in names if _has_tensors(folder / name, index)), None)
    if path is None:
        raise RunError(f"{folder / TENSORS}: isn't there, or isn't what {INDEX} was written with. {_DAMAGED}")
    return path


def read_index(folder: Path) -> dict[str, Any]:
    """Return the content of a folder's index, without its digest.

    Raises:
        RunError: the index is missing or damaged, or has a newer format; the message names the file.
    """
    path = folder / INDEX
    try:
        index = parse_json(path.read_text(encoding="utf-8"))
        known_format, version = index["format"] == FORMAT, index["format_version"]
    except FileNotFoundError:
        state_index = folder / "state" / INDEX
        hint = f"; the edits of this run are in {state_index.parent}" if state_index.exists() else ""
        raise RunError(f"{path}: no such file; this folder holds no saved edits{hint}") from None
    except OSError as error:
        raise RunError(f"{path}: can't be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{path}: isn't the index of saved edits. {_DAMAGED}") from error
    if not known_format or type(version) is not int or version < 1:
        raise RunError(f"{path}: isn't the index of saved edits")
    if version > MANY_VERSION:
        raise RunError(
            f"{path}: has format version {version}; this package knows versions up to {MANY_VERSION}. "
            "Update easyedit_lifelong."
        )
    if index.pop("digest", None) != _index_digest(index):
        raise RunError(f"{path}: has been changed since it was written. {_DAMAGED}")
    return dict(index)


@contextlib.contextmanager
def translate_write_errors(folder: Path, what: str) -> Iterator[None]:
    """Turn errors of writing, inside the context, into an error that names the folder.

    Args:
        folder: the folder that is written to.
        what: what is written, for the message: a plural.

    Raises:
        RunError: writing failed.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"{folder}: {what} can't be written: {reason}. What was written stays.") from error


def check_empty(folder: Path) -> Path:
    """Check that a folder is empty or does not exist, and return its absolute path.

    Raises:
        RunError: the path is not a folder, or the folder is not empty.
    """
    folder = expanded_path(folder, RunError).absolute()
    try:
        names = sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return folder
    except OSError as error:
        raise RunError(f"{folder}: isn't a folder that can be used: {error.strerror}") from error
    if names:
        raise RunError(f"{folder}: holds {names[0]} already; nothing will be overwritten. Name a new or empty folder.")
    return folder


_DAMAGED = "The folder is incomplete or damaged; copy it again from its source, or save the edits again."


def _index_digest(index: Mapping[str, Any]) -> str:
    """Return the digest of an index, which does not depend on the order of keys or on white space."""
    text = json.dumps(index, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def tensors_digest(path: Path, version: int) -> str:
    """Return the digest of a file of tensors, as the index of a format version holds it.

    Raises:
        OSError: the file can't be read.
    """
    return chunked_digest(path) if version == MANY_VERSION else file_digest(path)


def _has_tensors(path: Path, index: Mapping[str, Any]) -> bool:
    """Return whether a file exists and has the digest of an index."""
    try:
        return tensors_digest(path, index["format_version"]) == index["tensors"]
    except FileNotFoundError:
        return False
    except OSError as error:
        raise RunError(f"{path}: can't be read: {error.strerror}") from error
