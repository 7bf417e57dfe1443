"""The files of an edits folder, and its index with the digests that reveal damage (docs/edits.md describes the format).

The index, ``edits.json``, describes the edits and holds a digest of itself. The tensors are either in one file,
``edits.safetensors``, whose digest is in the index (format version 1, ``save_edits``), or in one file for each step,
whose digests are chained (format version 2, a run's ``state/``). Where there are many edits, the index leaves out their
records, which are among the tensors (format version 3, ``save_edits``). Nothing is pickled.

The tensors are read and written by :mod:`~easyedit_lifelong.edits.folder_tensors` and
:mod:`~easyedit_lifelong.edits.step_files`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from easyedit_lifelong.atomic import write_text_atomically
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
        raise RunError(f"{path}: isn't the index of saved edits. {DAMAGED}") from error
    if not known_format or type(version) is not int or version < 1:
        raise RunError(f"{path}: isn't the index of saved edits")
    if version > MANY_VERSION:
        raise RunError(
            f"{path}: has format version {version}; this package knows versions up to {MANY_VERSION}. "
            "Update easyedit_lifelong."
        )
    if index.pop("digest", None) != _index_digest(index):
        raise RunError(f"{path}: has been changed since it was written. {DAMAGED}")
    return dict(index)


@contextlib.contextmanager
def folder_write_errors(folder: Path, what: str) -> Iterator[None]:
    """Turn errors of writing safetensors and other files, inside the context, into an error that names their folder.

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


DAMAGED = "The folder is incomplete or damaged; copy it again from its source, or save the edits again."


def _index_digest(index: Mapping[str, Any]) -> str:
    """Return the digest of an index, which does not depend on the order of keys or on white space."""
    text = json.dumps(index, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
