"""Errors of writing name the file and the reason."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.write_errors import translated_write_errors


def test_the_message_names_the_file_of_the_error_or_else_the_one_that_is_written(tmp_path: Path) -> None:
    with (
        pytest.raises(RunError, match=r"a\.json: can't be written: No space left on device$"),
        translated_write_errors(tmp_path / "a.json"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    (tmp_path / "file").touch()
    with (
        pytest.raises(RunError, match=r"file/b: can't be written: Not a directory$"),
        translated_write_errors(tmp_path / "a.json"),
    ):
        (tmp_path / "file" / "b").write_text("")
