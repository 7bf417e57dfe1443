"""Paths with ``~``: an unknown user is an error with a message, wherever the path comes from."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import easyedit_lifelong
from easyedit_lifelong.covariance.corpus import find_corpus
from easyedit_lifelong.covariance.moment_paths import stats_folder
from easyedit_lifelong.data.multiple_choice import read_multiple_choice
from easyedit_lifelong.data.readers import read_json, read_requests
from easyedit_lifelong.edits import inspect_edits
from easyedit_lifelong.errors import CovarianceError, DataError, HyperParameterError, LifelongError, RunError
from easyedit_lifelong.evaluation.text_scores import read_text
from easyedit_lifelong.hparams_files import find_hparams
from easyedit_lifelong.models.cache import cache_dir
from easyedit_lifelong.paths import check_output_file, expanded_path
from easyedit_lifelong.runs.rescoring_plan import plan_rescoring

UNKNOWN = "~nosuchuser/x"


def test_the_users_own_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded_path("~/a", RunError) == expanded_path(Path("~/a"), RunError) == tmp_path / "a"
    assert expanded_path("a/~", RunError) == Path("a/~")


@pytest.mark.parametrize(
    ("use", "error"),
    [
        (lambda: read_requests(UNKNOWN, read_json), DataError),
        (lambda: read_multiple_choice(UNKNOWN), DataError),
        (lambda: read_text(UNKNOWN), DataError),
        (lambda: find_corpus(UNKNOWN), DataError),
        (lambda: stats_folder(UNKNOWN), CovarianceError),
        (lambda: find_hparams(UNKNOWN), HyperParameterError),
        (lambda: inspect_edits(UNKNOWN), RunError),
        (lambda: plan_rescoring(UNKNOWN), RunError),
    ],
)
def test_the_home_folder_of_an_unknown_user_is_refused(use: Callable[[], object], error: type[LifelongError]) -> None:
    expected = r"^~nosuchuser/x: the home folder isn't known, or there is no such user\. Write the path in full\.$"
    with pytest.raises(error, match=expected):
        use()


def test_a_cache_in_the_home_folder_of_an_unknown_user_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EASYEDIT_LIFELONG_CACHE", UNKNOWN)
    with pytest.raises(RunError, match=r"^~nosuchuser/x: the home folder isn't known, or there is no such user"):
        cache_dir()


def test_a_cache_in_an_unknown_home_folder_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unknown(_: int) -> None:
        raise KeyError

    for name in ("EASYEDIT_LIFELONG_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pytest.importorskip("pwd"), "getpwuid", unknown)  # as in a container with another user id
    with pytest.raises(RunError, match=r"^~/\.cache: the home folder isn't known"):
        cache_dir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "easyedit-lifelong"


def test_no_other_module_expands_paths() -> None:
    package = Path(easyedit_lifelong.__file__).parent
    others = [file for file in package.rglob("*.py") if file != package / "paths.py"]
    assert len(others) > 100
    assert [str(file) for file in others if re.search(r"expanduser|Path\.home", file.read_text(encoding="utf-8"))] == []


def test_a_file_that_can_not_be_written_is_found_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "new" / "folder" / "file"):
        check_output_file(path, RunError)
    assert not (tmp_path / "new").exists()
    with pytest.raises(RunError, match="is a folder"):
        check_output_file(tmp_path, RunError)
    with pytest.raises(RunError, match=r"file is a file\. Name another"):
        check_output_file(tmp_path / "file" / "inner", RunError)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(RunError, match=f"{tmp_path} can't be written to"):
        check_output_file(tmp_path / "new" / "file", RunError)
