"""Paths as users write them."""

from __future__ import annotations

import os
from pathlib import Path

from easyedit_lifelong.errors import LifelongError


def expanded_path(path: Path | str, error: type[LifelongError]) -> Path:
    """Return a path with the home folder in place of ``~`` or ``~user``.

    Args:
        path: the path.
        error: the class of the error that is raised.

    Raises:
        LifelongError: the home folder isn't known, or there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as cause:
        message = f"{path}: the home folder isn't known, or there is no such user. Write the path in full."
        raise error(message) from cause


def check_output_file(path: Path, error: type[LifelongError]) -> None:
    """Check that a file can probably be written, before long work whose results it gets. Nothing is changed.

    Args:
        path: the file. An existing one may be replaced; missing folders are made later.
        error: the class of the error that is raised.

    Raises:
        LifelongError: the path is a folder, or a folder of it is a file or can't be written to.
    """
    if path.is_dir():
        raise error(f"{path}: is a folder. Name a file.")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        problem = "can't be written to" if folder.is_dir() else "is a file"
        raise error(f"{path}: can't be written: {folder} {problem}. Name another file.")
