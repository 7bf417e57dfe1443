"""The folder of a rescoring: the results of an interrupted one are replaced, those of a finished one never."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.runs import rescore
from easyedit_lifelong.runs.run_folder import CONFIG, SUMMARY


def test_results_that_another_process_has_just_completed_are_not_deleted(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text("recorded: {rescored: {run: a}}\n")

    @contextlib.contextmanager
    def lock_that_is_free_when_the_other_process_ends(path: Path, **_: Any) -> Iterator[None]:
        (path / SUMMARY).write_text('{"metrics": {}}')
        yield

    with (
        mock.patch.object(rescore, "locked_folder", lock_that_is_free_when_the_other_process_ends),
        pytest.raises(RunError, match="holds another run"),
    ):
        rescore._open_folder(tmp_path)
    assert (tmp_path / CONFIG).exists()
    assert (tmp_path / SUMMARY).exists()
