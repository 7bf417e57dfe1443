"""Paths as users write them."""

from __future__ import annotations

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
