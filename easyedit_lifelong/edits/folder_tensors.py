"""The tensors of an edits folder: read and write them together with the index that has their digest."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from easyedit_lifelong.atomic import atomic_file, fsync_path
from easyedit_lifelong.digests import chunked_digest, file_digest
from easyedit_lifelong.edits.edits_folder import (
    DAMAGED,
    FORMAT_VERSION,
    INDEX,
    MANY_VERSION,
    NEW_TENSORS,
    STEPS_VERSION,
    TENSORS,
    check_utf8,
    folder_write_errors,
    lock_edits,
    read_index,
    write_index,
)
from easyedit_lifelong.errors import RunError


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
    with lock_edits(folder), folder_write_errors(folder, "the edits"):
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
        raise RunError(f"{path}: can't be read: {error}. {DAMAGED}") from error
    return tensors


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
        raise RunError(f"{folder / TENSORS}: isn't there, or isn't what {INDEX} was written with. {DAMAGED}")
    return path


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
