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


# ------------------------------------------------------------------ taking a run up again

CONFIG = {"schema_version": 1, "method": "X", "hparams": {"device": "cuda:0", "eps": 1.0, "layers": [1, 2]}}


def test_reopening_what_was_asked_for_before(tmp_path: Path) -> None:
    RunFolder(tmp_path).write_config({**CONFIG, "started": "yesterday"})
    again = {**CONFIG, "hparams": {**CONFIG["hparams"], "device": "cpu"}}  # type: ignore[dict-item]
    assert RunFolder.reopen(tmp_path, again).path == tmp_path


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({**CONFIG, "method": "Y"}, "method was 'X', is 'Y'"),
        ({**CONFIG, "hparams": {"eps": 2.0, "layers": [1, 2]}}, "hparams.eps was 1.0, is 2.0"),
        ({**CONFIG, "hparams": {"eps": 1.0, "layers": [1]}}, r"hparams.layers was \[1, 2\], is \[1\]"),
        ({**CONFIG, "hparams": {"eps": 1.0, "layers": [1, 2], "seed": 0}}, "hparams.seed was 'nothing', is 0"),
        ({**CONFIG, "hparams": {"layers": [1, 2]}}, "hparams.eps was 1.0, is 'nothing'"),
    ],
)
def test_reopening_for_something_else(tmp_path: Path, config: dict[str, Any], says: str) -> None:
    RunFolder(tmp_path).write_config(CONFIG)
    with pytest.raises(RunError, match=says) as caught:
        RunFolder.reopen(tmp_path, config)
    assert str(tmp_path) in str(caught.value)
    assert "--out" in str(caught.value)


@pytest.mark.parametrize("text", [": [", "5", "\xff"])
def test_reopening_what_is_no_run(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(RunError, match=r"config\.yaml"):
        RunFolder.reopen(tmp_path, CONFIG)
    with pytest.raises(RunError, match="holds no run to resume"):
        RunFolder.reopen(tmp_path / "nothing", CONFIG)


def test_a_line_that_was_never_finished_is_no_line(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.read("journal.jsonl") == []
    folder.journal({"case_id": 1}, {"case_id": 2, "prompt": "é\u2028"})
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write('{"case_id": 3, "prompt": "é"}'.encode()[:-3])
    assert [line["case_id"] for line in folder.read("journal.jsonl")] == [1, 2]
    folder.rewrite("journal.jsonl", folder.read("journal.jsonl"))
    folder.journal({"case_id": 3})
    assert [line["case_id"] for line in folder.read("journal.jsonl")] == [1, 2, 3]


def test_states_are_whole_or_not_there(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)

    def save(path: Path) -> None:
        (path / "deep").mkdir()
        (path / "deep" / "file").write_text("edits")

    def die(path: Path) -> None:
        save(path)
        raise KeyboardInterrupt

    folder.save_state(3, save)
    with pytest.raises(KeyboardInterrupt):
        folder.save_state(4, die)
    assert folder.state(3).is_dir() and not folder.state(4).exists()
    folder.save_state(4, save)
    folder.save_state(4, save)
    folder.drop_states(keep=4)
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["batch-000004"]
    assert (folder.state(4) / "deep" / "file").read_text() == "edits"


def test_a_full_disk_while_saving(tmp_path: Path) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match="state: can't be written: No space left on device"):
        RunFolder(tmp_path).save_state(1, full)
