"""The folder of a run: its files are complete or missing, and no other run's folder is touched."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock
from safetensors import SafetensorError

from easyedit_lifelong.edits.edits_folder import folder_write_errors
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.runs import run_folder
from easyedit_lifelong.runs.run_folder import SCHEMA_VERSION, RunFolder, check_free, check_resumable

FILES = ("config.yaml", "journal.jsonl", "metrics.jsonl", "summary.json")


def test_each_file_holds_what_was_written_to_it(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a" / "b")
    folder.write_config({"schema_version": 1, "data": "Zürich", "hparams": {"reg": None}})
    folder.journal({"case_id": 1, "prompt": "über"})
    folder.journal({"case_id": 2})
    folder.metrics({"n_edits": 2})
    folder.write_summary({"metrics": {"ES": 1.0}})
    folder.close()
    assert yaml.safe_load((folder.path / "config.yaml").read_text(encoding="utf-8"))["data"] == "Zürich"
    lines = (folder.path / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["case_id"] for line in lines] == [1, 2]
    assert "über" in lines[0]
    assert json.loads((folder.path / "metrics.jsonl").read_text()) == {"n_edits": 2}
    assert json.loads((folder.path / "summary.json").read_text()) == {"metrics": {"ES": 1.0}}
    assert sorted(path.name for path in folder.path.iterdir()) == sorted([*FILES, ".lock"])


@pytest.mark.parametrize("name", FILES)
def test_a_folder_with_any_file_of_another_run_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(RunError, match=r"holds another run.*won't be overwritten.*--out") as caught:
        RunFolder(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert name in str(caught.value)
    assert (tmp_path / name).read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_check_free_creates_nothing(tmp_path: Path) -> None:
    assert check_free(tmp_path / "new") == tmp_path / "new"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "journal.jsonl").touch()
    with pytest.raises(RunError, match="holds another run"):
        check_free(tmp_path)
    with pytest.raises(RunError, match="is a file"):
        check_free(tmp_path / "journal.jsonl")


def test_the_checks_refuse_a_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match=r"can't make this folder: .*file is a file"):
        check_free(tmp_path / "file" / "deep" / "run")
    for path in ("~nosuchuser/run", Path("~nosuchuser")):
        with pytest.raises(RunError, match=r"~nosuchuser.*: .* there is no such user"):
            check_free(path)
        with pytest.raises(RunError, match=r"~nosuchuser.*: .* there is no such user"):
            check_resumable(path)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(RunError, match=r"can't make this folder: .* can't be written to"):
        check_free(tmp_path / "deep" / "run")
    with pytest.raises(RunError, match="can't be written to"):
        check_free(tmp_path)


def test_the_folder_is_synced_after_each_new_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A synced file can be missing after a power cut if its folder wasn't synced, too."""
    folder, synced = RunFolder(tmp_path), []
    for module in ("atomic", "runs.run_folder"):
        monkeypatch.setattr(f"easyedit_lifelong.{module}.fsync_path", synced.append)
    for _ in range(2):
        folder.journal({"case_id": 1})
        folder.save_state(lambda path: path.mkdir(exist_ok=True))
    assert synced == [tmp_path, tmp_path], "the folder must be synced once for the journal and once for the state"


def test_unrelated_files_in_the_folder_are_kept(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    RunFolder(tmp_path).write_summary({})
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_file_in_the_place_of_the_folder_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path, message in ((tmp_path / "file", "is a file"), (tmp_path / "file" / "below", "can't make this folder")):
        with pytest.raises(RunError, match=message) as caught:
            RunFolder(path)
        assert str(path) in str(caught.value)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_without_write_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(RunError, match="can't make this folder: Permission denied"):
        RunFolder(tmp_path / "new")


def test_a_tilde_stands_for_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert RunFolder("~/runs").path == tmp_path / "runs"


def test_an_interrupted_summary_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        folder.write_summary({"metrics": {}})
    assert not (tmp_path / "summary.json").exists()


def test_each_journal_line_can_be_read_at_once(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for count in (1, 2):
        folder.journal({"case_id": count})
        assert len((tmp_path / "journal.jsonl").read_text().splitlines()) == count


# ------------------------------------------------------------------ resume

CONFIG = {
    "schema_version": SCHEMA_VERSION,
    "method": "X",
    "hparams": {"device": "cuda:0", "eps": 1.0, "layers": [1, 2]},
}


def write_config(path: Path, config: dict[str, Any]) -> None:
    folder = RunFolder(path)
    folder.write_config(config)
    folder.close()


def test_device_model_path_data_path_and_trackers_may_differ_on_resume(tmp_path: Path) -> None:
    first = {**CONFIG, "recorded": {"started": "yesterday"}, "data": {"path": "a"}, "trackers": []}
    write_config(tmp_path, first)
    hparams = {**CONFIG["hparams"], "device": "cpu", "model_name": "./m"}  # type: ignore[dict-item]
    second = {**first, "hparams": hparams, "recorded": {}, "data": {"path": "b"}, "trackers": ["csv"]}
    assert RunFolder.reopen(tmp_path, second).path == tmp_path


def test_a_run_of_another_schema_version_is_refused(tmp_path: Path) -> None:
    write_config(tmp_path, {**CONFIG, "schema_version": 1})
    with pytest.raises(RunError, match="written by another version of this package"):
        RunFolder.reopen(tmp_path, CONFIG)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**CONFIG, "method": "Y"}, "method was 'X', is 'Y'"),
        ({**CONFIG, "hparams": {"eps": 2.0, "layers": [1, 2]}}, "hparams.eps was 1.0, is 2.0"),
        ({**CONFIG, "hparams": {"eps": 1.0, "layers": [1]}}, r"hparams.layers was \[1, 2\], is \[1\]"),
        ({**CONFIG, "hparams": {"eps": 1.0, "layers": [1, 2], "seed": 0}}, "hparams.seed was 'nothing', is 0"),
        ({**CONFIG, "hparams": {"layers": [1, 2]}}, "hparams.eps was 1.0, is 'nothing'"),
    ],
)
def test_another_method_or_hyperparameter_is_refused_on_resume(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    write_config(tmp_path, CONFIG)
    with pytest.raises(RunError, match=message) as caught:
        RunFolder.reopen(tmp_path, config)
    assert str(tmp_path) in str(caught.value)
    assert "--out" in str(caught.value)


@pytest.mark.parametrize("text", [": [", "5", "\xff"])
def test_a_folder_without_a_valid_config_is_refused_on_resume(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(RunError, match=r"config\.yaml"):
        RunFolder.reopen(tmp_path, CONFIG)
    with pytest.raises(RunError, match="holds no run to resume"):
        RunFolder.reopen(tmp_path / "nothing", CONFIG)


def line(case_id: int, **more: Any) -> dict[str, Any]:
    """Return a line of a journal."""
    return {"status": "edited", "n_edits": case_id, "case_id": case_id, "ES": 1.0, **more}


def test_an_incomplete_last_line_is_ignored(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.read("journal.jsonl") == []
    folder.journal(line(1), line(2, prompt="é\u2028"))
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write('{"case_id": 3, "prompt": "é"}'.encode()[:-3])
    assert [entry["case_id"] for entry in folder.read("journal.jsonl")] == [1, 2]
    folder.rewrite("journal.jsonl", folder.read("journal.jsonl"))
    folder.journal(line(3))
    assert [entry["case_id"] for entry in folder.read("journal.jsonl")] == [1, 2, 3]


# ------------------------------------------------------------------ a full disk, and other processes


class FullDisk:
    """A file that accepts a number of bytes and then raises the error of a full disk."""

    def __init__(self, file: Any, bytes_left: int) -> None:
        self.file, self.bytes_left = file, bytes_left

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *_: Any) -> None:
        self.file.close()

    def tell(self) -> int:
        return self.file.tell()

    def fileno(self) -> int:
        return self.file.fileno()

    def write(self, data: Any) -> int:
        if not self.bytes_left:
            raise OSError(errno.ENOSPC, "No space left on device")
        part = bytes(data[: self.bytes_left])
        self.bytes_left -= len(part)
        return self.file.write(part)


@pytest.mark.parametrize(
    ("resumable", "advice"),
    [(True, "continue the run with --resume"), (False, r"Remove the cause, then begin again\.$")],
)
def test_a_full_disk_leaves_no_torn_line(
    resumable: bool, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path, resumable=resumable)
    folder.write_config(CONFIG)
    folder.journal(line(1))
    before = (tmp_path / "journal.jsonl").read_bytes()
    real_open = Path.open
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, *args, **options: FullDisk(real_open(self, *args, **options), 9))
        with pytest.raises(RunError, match=rf"journal\.jsonl: can't be written: No space left.*{advice}"):
            folder.journal({"case_id": 2, "prompt": "long enough"})
    assert (tmp_path / "journal.jsonl").read_bytes() == before
    folder.journal(line(2))
    assert [entry["case_id"] for entry in folder.read("journal.jsonl")] == [1, 2]


def test_a_full_disk_while_the_state_is_saved_is_a_run_error(tmp_path: Path) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunError, match="state: can't be written: No space left on device"):
        RunFolder(tmp_path).save_state(full)


@pytest.mark.parametrize("cause", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error")])
def test_an_error_of_a_store_that_names_its_files_gets_the_advice(tmp_path: Path, cause: Exception) -> None:
    def full(path: Path) -> None:
        with folder_write_errors(path, "GRACE's edits"):
            raise cause

    folder = RunFolder(tmp_path, resumable=True)
    folder.write_config(CONFIG)
    with pytest.raises(RunError, match=r"state: GRACE's edits can't be written: .* the run with --resume\.$"):
        folder.save_state(full)


def test_another_error_of_a_store_stays_as_it_is(tmp_path: Path) -> None:
    def refuse(path: Path) -> None:
        raise RunError("another format")

    with pytest.raises(RunError, match=r"^another format$"):
        RunFolder(tmp_path, resumable=True).save_state(refuse)


def test_a_run_without_a_configuration_is_not_said_to_be_resumable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_folder, "write_text_atomically", full)
    with pytest.raises(RunError, match=r"config\.yaml: can't be written: .* Remove the cause, then begin again\.$"):
        RunFolder(tmp_path, resumable=True).write_config(CONFIG)


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(RunError, match=f"{tmp_path}: another process is working on this run"):
        RunFolder(tmp_path)
    folder.write_config(CONFIG)
    with pytest.raises(RunError, match="another process is working"):
        RunFolder.reopen(tmp_path, CONFIG)
    folder.close()
    reopened = RunFolder.reopen(tmp_path, CONFIG)
    with pytest.raises(RunError, match="another process is working"):
        RunFolder.reopen(tmp_path, CONFIG)
    reopened.close()
    reopened.close()


def test_a_refused_resume_releases_the_lock(tmp_path: Path) -> None:
    write_config(tmp_path, CONFIG)
    with pytest.raises(RunError, match="method was"):
        RunFolder.reopen(tmp_path, {**CONFIG, "method": "Y"})
    RunFolder.reopen(tmp_path, CONFIG).close()


def test_a_file_system_without_locks_gives_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise NotImplementedError("no flock here")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    RunFolder(tmp_path).journal({"case_id": 1})
    assert "can't be locked (no flock here)" in caplog.text


def test_the_time_spent_writing_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    folder.save_state(lambda path: time.sleep(0.02))
    assert 0.02 <= folder.seconds < 5


@pytest.mark.parametrize("made_again", [False, True], ids=["gone", "replaced"])
@pytest.mark.parametrize("write", ["journal", "metrics", "write_summary", "save_state"])
def test_a_folder_that_vanishes_is_an_error_at_the_next_write(tmp_path: Path, write: str, made_again: bool) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.journal({"case_id": 1})
    folder.path.rename(tmp_path / "elsewhere")
    if made_again:
        folder.path.mkdir()
    argument: Any = Path.mkdir if write == "save_state" else {"case_id": 2}
    with pytest.raises(RunError, match=r"run/\w+.*: can't be written: "):
        getattr(folder, write)(argument)
    assert not folder.path.exists() or not list(folder.path.iterdir())
    folder.close()


def test_a_journal_that_vanishes_is_an_error_at_the_next_write(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.journal({"case_id": 1})
    (tmp_path / "journal.jsonl").unlink()
    with pytest.raises(RunError, match=r"journal.jsonl: can't be written: it has been deleted"):
        folder.journal({"case_id": 2})
    folder.close()
