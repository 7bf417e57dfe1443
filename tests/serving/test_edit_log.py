"""The folder of a server: only complete lines count, one server at a time, damage is an error that names the line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.serving.edit_log import DELETE, JOURNAL, ROLLBACK, EditLog


def log_with_versions(folder: Path) -> EditLog:
    log = EditLog(folder)
    for name in "ab":
        log.record_edits([{"id": name, "prompt": name, "target_new": "x"}], "key", 1)
    log.record_removal(DELETE, ["a"], ["b"], "key", log.new_state())
    log.record_removal(ROLLBACK, ["b"], ["a"], "other", log.new_state(), to=1)
    log.record_removal(DELETE, ["a"], [], "key", log.new_state())
    log.record_edits([{"id": "c", "prompt": "c", "target_new": "x"}], "key", log.new_state())
    return log


def test_a_folder_that_is_opened_again_has_the_same_versions(tmp_path: Path) -> None:
    log = log_with_versions(tmp_path)
    log.close()
    again = EditLog(tmp_path)
    assert again.versions == log.versions
    assert again.edits == log.edits
    assert [again.ids_at(n) for n in range(7)] == [[], ["a"], ["a", "b"], ["b"], ["a"], [], ["c"]]
    assert again.new_state() == log.new_state() == 5
    again.close()


def test_an_incomplete_line_and_state_folders_without_a_version_are_removed(tmp_path: Path) -> None:
    log = log_with_versions(tmp_path)
    log.close()
    path = tmp_path / JOURNAL
    complete = path.read_bytes()
    path.write_bytes(complete + complete[:40])
    for number in (4, 5):
        (tmp_path / f"state-{number:06d}").mkdir()
        (tmp_path / f"state-{number:06d}" / "step-000001.safetensors").touch()
    again = EditLog(tmp_path)
    assert again.versions == log.versions
    assert path.read_bytes() == complete
    assert sorted(path.name for path in tmp_path.glob("state-*")) == ["state-000004"]
    again.close()


@pytest.mark.parametrize(
    "lost", [lambda path: path.unlink(), lambda path: path.write_bytes(b"")], ids=["file", "lines"]
)
def test_the_states_of_a_lost_journal_are_kept(tmp_path: Path, lost: Callable[[Path], object]) -> None:
    log_with_versions(tmp_path).close()
    steps = [tmp_path / f"state-{number:06d}" / "step-000001.safetensors" for number in (1, 2)]
    for step in steps:
        step.parent.mkdir()
        step.touch()
    lost(tmp_path / JOURNAL)
    for _ in range(2):
        with pytest.raises(RunError, match=r"state-000001.*Restore the folder from a copy"):
            EditLog(tmp_path)
    assert all(step.exists() for step in steps)


def test_a_lost_journal_is_noticed_before_the_first_deletion(tmp_path: Path) -> None:
    EditLog(tmp_path).close()
    step = tmp_path / "state-000001" / "step-000001.safetensors"
    step.parent.mkdir()
    step.touch()
    (tmp_path / JOURNAL).unlink()
    with pytest.raises(RunError, match=r"journal\.jsonl: is missing"):
        EditLog(tmp_path)
    assert step.exists()


def test_an_edit_that_was_killed_before_the_first_version_is_removed(tmp_path: Path) -> None:
    EditLog(tmp_path).close()
    (tmp_path / "state-000001").mkdir()
    log = EditLog(tmp_path)
    assert not (tmp_path / "state-000001").exists()
    assert log.present.number == 0
    log.close()


def test_copies_of_state_folders_are_left_alone(tmp_path: Path) -> None:
    log = log_with_versions(tmp_path)
    log.close()
    names = ["state-000009 (copy)", "state-9.bak", "state-\u0663"]
    for name in names:
        (tmp_path / name).mkdir()
    again = EditLog(tmp_path)
    assert again.versions == log.versions
    assert sorted(path.name for path in tmp_path.glob("state-*")) == sorted(names)
    again.close()


def test_one_server_at_a_time(tmp_path: Path) -> None:
    log = EditLog(tmp_path)
    with pytest.raises(RunError, match="another process is serving these edits"):
        EditLog(tmp_path)
    log.close()
    EditLog(tmp_path).close()


@pytest.mark.parametrize(
    "change",
    [
        lambda line: {**line, "version": 7},
        lambda line: {**line, "count": 9},
        lambda line: {**line, "action": "merge"},
        lambda line: {**line, "edits": [{}]},
        lambda line: {name: value for name, value in line.items() if name != "who"},
        lambda line: [],
    ],
)
def test_a_damaged_line_is_an_error_that_names_the_journal(tmp_path: Path, change: object) -> None:
    log_with_versions(tmp_path).close()
    path = tmp_path / JOURNAL
    lines = path.read_text().splitlines()
    lines[1] = json.dumps(change(json.loads(lines[1])))  # type: ignore[operator]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(RunError, match=JOURNAL):
        EditLog(tmp_path)


def test_a_newer_format_and_other_edits_are_refused(tmp_path: Path) -> None:
    log_with_versions(tmp_path).close()
    path = tmp_path / JOURNAL
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 2', 1))
    with pytest.raises(RunError, match="newer release"):
        EditLog(tmp_path)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "edits.json").touch()
    with pytest.raises(RunError, match="no server wrote"):
        EditLog(tmp_path / "saved")


def test_new_ids_are_never_those_of_an_earlier_edit(tmp_path: Path) -> None:
    log = EditLog(tmp_path)
    log.record_edits([{"id": "edit-2"}], "key", 1)
    first = log.new_id()
    assert first == "edit-3"
    assert log.new_id([first]) == "edit-4"
    log.close()
