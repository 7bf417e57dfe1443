"""Files that appear whole or not at all, whatever is killed meanwhile."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path, *, keep: bool = False) -> Iterator[Path]:
    """Give a temporary file beside ``path`` to fill inside, which becomes ``path`` in one step after.

    Args:
        path: the file to appear.
        keep: never replace a file that is there.

    Raises:
        OSError: it can't be written.
        FileExistsError: ``keep``, and it is there.
    """
    # Not tempfile's: its files are private to their owner, but results are shared.
    temporary = path.parent / f".writing-{os.getpid()}-{secrets.token_hex(4)}{path.suffix}"
    temporary.touch(exist_ok=False)
    try:
        yield temporary
        sync(temporary)
        if keep and path.exists():
            raise FileExistsError(str(path))
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def replace_text(path: Path, text: str, *, newline: str | None = None) -> None:
    """Have a file hold this text, in UTF-8, whole or not at all.

    Args:
        path: the file.
        text: what it shall hold.
        newline: as for ``open``: ``""`` leaves line ends as they are.

    Raises:
        OSError: it can't be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline=newline)


@contextlib.contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``folder`` to fill inside, which becomes ``folder`` in one step after.

    Args:
        folder: the folder to appear; one that is there must be empty.

    Raises:
        OSError: it can't be written, or isn't empty.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.parent / f".writing-{os.getpid()}-{secrets.token_hex(4)}"
    temporary.mkdir()
    try:
        yield temporary
        for path in (*temporary.rglob("*"), temporary):
            sync(path)
        if folder.exists():
            folder.rmdir()  # not every system lets a folder take an empty one's place
        os.replace(temporary, folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync(path: Path) -> None:
    """Have the disk hold a file, or a folder's list of files; not every system can sync a folder."""
    folder = path.is_dir()
    if folder and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
