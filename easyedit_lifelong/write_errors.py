"""Errors of the operating system while a file is written, as errors that name the file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from easyedit_lifelong.errors import RunError


@contextlib.contextmanager
def translated_write_errors(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` within the context into an error that names the file.

    Args:
        path: the file that is written, for an error that names none.

    Raises:
        RunError: the file can't be written.
    """
    try:
        yield
    except OSError as error:
        raise RunError(f"{error.filename or path}: can't be written: {error.strerror or error}") from error
