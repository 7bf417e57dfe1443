"""``inspect``, ``rollback`` and ``merge``: what they print, and that a mistake is one line without a traceback."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import call
from tests.support.format_1 import FOLDER
from tests.support.serialized_edits import saved, serialize_edits

GRACE, COACHHOOK = FOLDER / "GRACE", FOLDER / "CoachHook-weighed"
FACTS: list[Any] = [(n, (40 * n, 0, n)) for n in range(60)]


def test_inspect_lists_edits_and_near_keys_as_text_and_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = call(capsys, "inspect", GRACE)
    assert code == 0
    assert "5 edits, saved 2026-11-21T20:22:08+00:00" in out
    assert "(replaced by" in out
    assert "5 (case 4) and 3 (case 2)" in out
    code, out, _ = call(capsys, "inspect", COACHHOOK)
    assert code == 0
    assert "alpha of each layer" in out
    saved(tmp_path / "many", serialize_edits(FACTS))
    code, out, _ = call(capsys, "inspect", tmp_path / "many")
    assert "… and 10 before these" in out
    assert " c10 " in out
    assert " c9 " not in out
    assert " c0 " in call(capsys, "inspect", tmp_path / "many", "--limit", "0")[1]
    code, out, _ = call(capsys, "inspect", tmp_path / "many", "--json", "--nearly", "6")
    result = json.loads(out)
    assert len(result["parts"][0]["edits"]) == result["count"] == 60
    assert {key for pair in result["parts"][0]["near"] for key in pair["keys"]} == set(range(60))


def test_rollback_removes_cases_or_batches_and_reports_what_is_left(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = saved(tmp_path / "many", serialize_edits(FACTS))
    code, out, _ = call(capsys, "rollback", folder, "--case", "c3", "--case", "c7", "--out", tmp_path / "less")
    assert code == 0
    assert "2 edits removed, 58 left" in out
    code, out, _ = call(capsys, "rollback", folder, "--case", "c3", "--json")
    assert code == 0
    result = json.loads(out)
    assert (result["left"], [edit["case_id"] for edit in result["removed"]]) == (59, ["c3"])
    batches = Path(shutil.copytree(COACHHOOK, tmp_path / "batches"))
    code, out, _ = call(capsys, "rollback", batches, "--to-batch", "1")
    assert code == 0
    assert "2 edits removed, 2 left" in out


def test_merge_reports_conflicts_and_renamed_cases(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    first, second = (
        saved(tmp_path / "one", serialize_edits(FACTS[:5])),
        saved(tmp_path / "two", serialize_edits([(1, (0, 0, 9))])),
    )
    code, out, _ = call(capsys, "merge", first, second, "--out", tmp_path / "all")
    assert code == 0
    assert "supersede" in out
    assert "c1@two" in out
    assert "6 edits, 5 keys of 2 folders; conflicts between folders: 1; edits in several folders: 0" in out
    code, out, _ = call(capsys, "merge", first, second, "--out", tmp_path / "again", "--json")
    assert json.loads(out)["renamed"] == [{"folder": str(second), "before": "c1", "after": "c1@two"}]


MISTAKES: list[tuple[list[Any], int, str]] = [
    (["inspect", "nowhere"], 1, "no such file; this folder holds no saved edits"),
    (["rollback", GRACE, "--case", "44"], 1, "there is no edit of case '44'. Did you mean '4'?"),
    (
        ["rollback", GRACE, "--to-batch", "1"],
        1,
        "or ENN edits, so no batches",
    ),
    (["rollback", COACHHOOK, "--case", "1"], 1, "CoachHook's edits can't be rolled back one by one"),
    (["rollback", COACHHOOK, "--to-batch", "3"], 1, "can't roll back to batch 3: the folder has 2 batches"),
    (["rollback", COACHHOOK, "--to-batch", "1", "--prompt", "x"], 1, "name the case, too"),
    (["rollback", GRACE, "--case", "1", "--prompt", "Hamlet"], 1, "no edit of case 1 has the prompt 'Hamlet'"),
    (["rollback", GRACE, "--case", "1", "--out", COACHHOOK], 1, "holds edits already"),
    (["rollback", GRACE], 2, "one of the arguments --case --to-batch is required"),
    (["rollback", GRACE, "--case", "1", "--to-batch", "1"], 2, "not allowed with argument"),
    (["rollback", GRACE, "--to-batch", "-1"], 2, "is not a whole number"),
    (["merge", GRACE, "--out", "x"], 1, "at least two folders"),
    (["merge", GRACE, COACHHOOK, "--out", "x"], 1, "CoachHook edits, which can't be merged"),
]


@pytest.mark.parametrize(("words", "expected_code", "expected_error"), MISTAKES, ids=lambda value: str(value)[-40:])
def test_a_mistake_is_one_line_and_changes_no_file(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[Any],
    expected_code: int,
    expected_error: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in FOLDER.rglob("*") if path.is_file()}
    code, out, err = call(capsys, *words)
    assert code == expected_code
    assert expected_error in err
    assert "Traceback" not in out + err
    assert expected_code == 2 or len(err.strip().splitlines()) == 1
    assert {path: path.read_bytes() for path in FOLDER.rglob("*") if path.is_file()} == before
    assert list(tmp_path.iterdir()) == []
