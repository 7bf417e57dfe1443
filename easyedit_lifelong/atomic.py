"""Atomic writes: after a crash, a file or folder is either complete or absent, never half written."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

_PREFIX = ".writing-"
_HOST = f"{zlib.crc32(platform.node().encode()):08x}"
"""This machine in the names of temporary files: several machines can write to one folder."""
_STALE_SECONDS = 24 * 3600
"""The age from which a temporary file of another machine counts as left over."""


@contextlib.contextmanager
def atomic_file(path: Path, *, keep: bool = False) -> Iterator[Path]:
    """Yield a temporary file beside ``path``; when the context ends without an error, move it to ``path`` in one step.

    Args:
        path: the file to write.
        keep: raise an error instead of replacing an existing file.

    Raises:
        OSError: the file can't be written; its ``filename`` is ``path``.
        FileExistsError: ``keep`` is set and the file exists.
    """
    # The module tempfile makes files that only their owner can read, but results are shared.
    temporary = _temporary_path(path.parent, path.suffix)
    try:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        yield temporary
        _flush(temporary, mode)
        if keep and path.exists():
            raise FileExistsError(str(path))
        os.replace(temporary, path)
        fsync_path(path.parent)
    except OSError as error:
        if error.filename in (None, str(temporary)):  # a full disk has no name
            error.filename = str(path)
        raise
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


def append_durably(path: Path, data: bytes, *, must_exist: bool = False) -> None:
    """Append bytes to a file; they are on disk when this returns. If appending fails, the file is as before.

    Args:
        path: the file; made if it does not exist.
        data: the bytes.
        must_exist: raise an error if the file is missing or empty, since it has been written before.

    Raises:
        OSError: the bytes can't be written; its ``filename`` is ``path``.
    """
    # Unbuffered: bytes that a full disk refused must not stay in a buffer that closing the file would write.
    with path.open("ab", buffering=0) as file:
        size_before = file.tell()
        if must_exist and not size_before:
            raise FileNotFoundError(errno.ENOENT, "it has been deleted since this process began to write it")
        try:
            remaining = memoryview(data)
            while remaining:
                remaining = remaining[file.write(remaining) :]
            os.fsync(file.fileno())
            if not size_before:  # a new file: its entry in the folder has to be on disk, too
                fsync_path(path.parent)
        except OSError as error:
            error.filename = str(path)
            # If truncating fails as well, a reader drops the incomplete line.
            with contextlib.suppress(OSError):
                os.truncate(path, size_before)
            raise


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder; when the context ends without an error, move it to ``folder`` in one step.

    Args:
        folder: the folder to write; if it exists, it must be empty.

    Raises:
        OSError: the folder can't be written, or isn't empty; its ``filename`` is in ``folder``.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    delete_leftovers(folder.parent)
    temporary = _temporary_path(folder.parent)
    try:
        temporary.mkdir()
        yield temporary
        flush_folder(temporary)
        if folder.exists():
            folder.rmdir()  # some systems can't move a folder over an empty one
        os.replace(temporary, folder)
        fsync_path(folder.parent)
    except OSError as error:
        error.filename = str(error.filename or temporary).replace(str(temporary), str(folder))
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def flush_folder(folder: Path) -> None:
    """Flush a new folder with all its files to disk, and give the files the permissions that new files have.

    safetensors makes files that only their owner can read, but results are shared.
    """
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        _flush(path, path.stat().st_mode if path.is_dir() else mode)
    fsync_path(folder)


def delete_leftovers(folder: Path) -> None:
    """Delete the temporary files and folders that processes left in a folder when they were killed."""
    for path in folder.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if _is_left_over(path):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()


def _temporary_path(folder: Path, suffix: str = "") -> Path:
    """Return a new name for a temporary file or folder, which tells the machine and the process that writes it."""
    return folder / f"{_PREFIX}{_HOST}-{os.getpid()}-{secrets.token_hex(4)}{suffix}"


def _is_left_over(path: Path) -> bool:
    """Return whether the process that wrote a temporary file has ended."""
    match = re.match(rf"{re.escape(_PREFIX)}{_HOST}-(\d+)-", path.name)
    if match is None or os.name == "nt":  # of another machine or an older version; Windows can't test a process
        return time.time() - path.stat().st_mtime > _STALE_SECONDS
    try:
        os.kill(int(match[1]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _flush(path: Path, mode: int) -> None:
    """Flush a file or folder to disk, with these permissions."""
    if path.stat().st_mode != mode:
        path.chmod(mode & 0o7777)
    fsync_path(path)


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
