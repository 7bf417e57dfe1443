"""A run's folder: whole files or none, and never somebody else's."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.lifelong.folder import RunFolder, check_free

FILES = ("config.yaml", "journal.jsonl", "metrics.jsonl", "summary.json")


def test_files_are_what_they_are_called(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a" / "b")
    folder.write_config({"schema_version": 1, "data": "Zürich", "hparams": {"reg": None}})
    folder.journal({"case_id": 1, "prompt": "über"})
    folder.journal({"case_id": 2})
    folder.metrics({"n_edits": 2})
    folder.write_summary({"metrics": {"ES": 1.0}})
    assert yaml.safe_load((folder.path / "config.yaml").read_text(encoding="utf-8"))["data"] == "Zürich"
    lines = (folder.path / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["case_id"] for line in lines] == [1, 2]
    assert "über" in lines[0]
    assert json.loads((folder.path / "metrics.jsonl").read_text()) == {"n_edits": 2}
    assert json.loads((folder.path / "summary.json").read_text()) == {"metrics": {"ES": 1.0}}
    assert sorted(path.name for path in folder.path.iterdir()) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
def test_any_trace_of_another_run_stops_it(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(RunError, match=r"holds another run.*won't be overwritten.*--out") as caught:
        RunFolder(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert name in str(caught.value)
    assert (tmp_path / name).read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_looking_touches_nothing(tmp_path: Path) -> None:
    assert check_free(tmp_path / "new") == tmp_path / "new"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "journal.jsonl").touch()
    with pytest.raises(RunError, match="holds another run"):
        check_free(tmp_path)
    with pytest.raises(RunError, match="is a file"):
        check_free(tmp_path / "journal.jsonl")


def test_other_files_are_no_run(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    RunFolder(tmp_path).write_summary({})
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path, says in ((tmp_path / "file", "is a file"), (tmp_path / "file" / "below", "can't make this folder")):
        with pytest.raises(RunError, match=says) as caught:
            RunFolder(path)
        assert str(path) in str(caught.value)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(RunError, match="can't make this folder: Permission denied"):
        RunFolder(tmp_path / "new")


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert RunFolder("~/runs").path == tmp_path / "runs"


def test_an_interrupted_summary_is_no_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        folder.write_summary({"metrics": {}})
    assert not (tmp_path / "summary.json").exists()


def test_a_line_is_on_disk_at_once(tmp_path: Path) -> None:
    """Seen by another process before the run ends or dies."""
    folder = RunFolder(tmp_path)
    for count in (1, 2):
        folder.journal({"case_id": count})
        assert len((tmp_path / "journal.jsonl").read_text().splitlines()) == count
