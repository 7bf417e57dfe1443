"""Atomic writes: after a crash, a file or folder is either complete or absent, never half written."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_file(path: Path, *, keep: bool = False) -> Iterator[Path]:
    """Yield a temporary file beside ``path``; when the context ends without an error, move it to ``path`` in one step.

    Args:
        path: the file to write.
        keep: raise an error instead of replacing an existing file.

    Raises:
        OSError: the file can't be written.
        FileExistsError: ``keep`` is set and the file exists.
    """
    # The module tempfile makes files that only their owner can read, but results are shared.
    temporary = path.parent / f".writing-{os.getpid()}-{secrets.token_hex(4)}{path.suffix}"
    temporary.touch(exist_ok=False)
    try:
        yield temporary
        fsync_path(temporary)
        if keep and path.exists():
            raise FileExistsError(str(path))
        os.replace(temporary, path)
        fsync_path(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str, *, newline: str | None = None) -> None:
    """Write a text file in UTF-8 in one step; replace an existing file.

    Args:
        path: the file to write.
        text: its content.
        newline: as for ``open``: ``""`` writes line ends unchanged.

    Raises:
        OSError: the file can't be written.
    """
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline=newline)


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder; when the context ends without an error, move it to ``folder`` in one step.

    Args:
        folder: the folder to write; if it exists, it must be empty.

    Raises:
        OSError: the folder can't be written, or isn't empty.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.parent / f".writing-{os.getpid()}-{secrets.token_hex(4)}"
    temporary.mkdir()
    try:
        yield temporary
        for path in (*temporary.rglob("*"), temporary):
            fsync_path(path)
        if folder.exists():
            folder.rmdir()  # some systems can't move a folder over an empty one
        os.replace(temporary, folder)
        fsync_path(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def fsync_path(path: Path) -> None:
    """Flush a file, or a folder's list of entries, to disk. Windows can't flush a folder; there, do nothing for one."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
