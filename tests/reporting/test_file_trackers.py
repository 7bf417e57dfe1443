"""The trackers that write CSV and JSON files."""

from __future__ import annotations

import csv
import errno
import json
from pathlib import Path

import numpy as np
import pytest

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.plugins import get_plugins


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_csv_point_is_on_disk_as_soon_as_it_is_logged(tmp_path: Path) -> None:
    tracker = get_plugins().trackers.get("csv").create(tmp_path, {})
    tracker.log(2, {"ES": 1.0, "ERR": 0.5})
    assert _rows(tmp_path / "metrics.csv") == [{"n_edits": "2", "ES": "1.0", "ERR": "0.5"}], (
        "the point isn't on disk while the run continues"
    )
    tracker.log(4, {"ERR": 0.25, "ES": 0.75})
    tracker.close()
    assert _rows(tmp_path / "metrics.csv")[1] == {"n_edits": "4", "ES": "0.75", "ERR": "0.25"}


def test_a_score_that_appears_later_gets_a_csv_column(tmp_path: Path) -> None:
    """Generated answers are scored at the end only."""
    tracker = get_plugins().trackers.get("csv").create(tmp_path, {})
    tracker.log(1, {"ES": 1.0})
    tracker.log(2, {"ES": 0.5, "generation_match": 0.25})
    tracker.log(3, {"ES": 0.75})
    assert _rows(tmp_path / "metrics.csv") == [
        {"n_edits": "1", "ES": "1.0", "generation_match": ""},
        {"n_edits": "2", "ES": "0.5", "generation_match": "0.25"},
        {"n_edits": "3", "ES": "0.75", "generation_match": ""},
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"], "rewriting left a temporary file"


def test_intervals_and_nested_values_are_csv_columns(tmp_path: Path) -> None:
    tracker = get_plugins().trackers.get("csv").create(tmp_path, {})
    tracker.log(
        1, {"ERR": 0.5, "intervals": {"ERR": [0.25, np.float64(0.75)], "TRR": None}, "answers": {"a": {"b": 1}}}
    )
    (row,) = _rows(tmp_path / "metrics.csv")
    assert row == {"n_edits": "1", "ERR": "0.5", "ERR_low": "0.25", "ERR_high": "0.75", "answers.a.b": "1"}


@pytest.mark.parametrize("name", ["csv", "json"])
def test_a_resumed_run_has_every_point_once(tmp_path: Path, name: str) -> None:
    """A resumed run logs the earlier points again."""
    points = [(1, {"ES": 1.0}), (2, {"ES": 0.5, "ERR": 0.5}), (3, {"ES": 0.25})]
    kind = get_plugins().trackers.get(name)
    uninterrupted = kind.create(tmp_path, {})
    for step, scores in points:
        uninterrupted.log(step, scores)
    uninterrupted.close()
    (file,) = tmp_path.iterdir()
    expected = file.read_bytes()
    first = kind.create(tmp_path, {})
    for step, scores in points[:2]:
        first.log(step, scores)
    second = kind.create(tmp_path, {})  # the first run was killed, so its tracker isn't closed
    for step, scores in points[:2] + points[1:]:
        second.log(step, scores)
    second.close()
    assert file.read_bytes() == expected


def test_a_point_logged_again_replaces_the_earlier_one(tmp_path: Path) -> None:
    """The final scoring may come at a number of edits that was scored before."""
    for name in ("csv", "json"):
        tracker = get_plugins().trackers.get(name).create(tmp_path, {})
        tracker.log(1, {"ES": 1.0})
        tracker.log(2, {"ES": 0.5})
        tracker.log(2, {"ES": 0.75, "generation_match": 0.5})
        tracker.close()
    assert [row["ES"] for row in _rows(tmp_path / "metrics.csv")] == ["1.0", "0.75"]
    assert json.loads((tmp_path / "metrics.json").read_text()) == [
        {"n_edits": 1, "ES": 1.0},
        {"n_edits": 2, "ES": 0.75, "generation_match": 0.5},
    ]


def test_batches_with_equal_numbers_of_edits_are_separate_points(tmp_path: Path) -> None:
    """A batch whose edits all fail leaves the number of edits unchanged."""
    tracker = get_plugins().trackers.get("csv").create(tmp_path, {})
    tracker.log(4, {"batch": 1, "ERR": 1.0})
    tracker.log(4, {"batch": 2, "ERR": 0.5})
    assert [row["ERR"] for row in _rows(tmp_path / "metrics.csv")] == ["1.0", "0.5"]


def test_a_missing_score_is_an_empty_csv_cell(tmp_path: Path) -> None:
    tracker = get_plugins().trackers.get("csv").create(tmp_path, {})
    tracker.log(1, {"ES": 1.0, "locality": 1.0})
    tracker.log(2, {"ES": 0.5})
    tracker.close()
    assert _rows(tmp_path / "metrics.csv")[1] == {"n_edits": "2", "ES": "0.5", "locality": ""}


def test_a_tracker_without_points_leaves_an_empty_file(tmp_path: Path) -> None:
    for name in ("csv", "json"):
        get_plugins().trackers.get(name).create(tmp_path, {}).close()
    assert (tmp_path / "metrics.csv").read_text() == ""
    assert json.loads((tmp_path / "metrics.json").read_text()) == []


def test_the_json_file_is_always_valid_and_not_rewritten_for_every_point(tmp_path: Path) -> None:
    tracker = get_plugins().trackers.get("json").create(tmp_path, {})
    file = tmp_path / "metrics.json"
    written = 0
    for step in range(1, 401):
        before = file.stat().st_ino
        tracker.log(step, {"ERR": float("nan") if step == 2 else np.float32(0.5), "intervals": {"ERR": (0.25, 1.0)}})
        written += file.stat().st_ino != before
        points = json.loads(file.read_text())
        assert step - 4 <= len(points) <= step
    assert 100 < written < 250, "the file was rewritten too often or too rarely"
    tracker.close()
    points = json.loads(file.read_text(), parse_constant=pytest.fail)
    assert points[0] == {"n_edits": 1, "ERR": 0.5, "intervals": {"ERR": [0.25, 1.0]}}
    assert points[1]["ERR"] is None, "NaN isn't valid JSON"
    assert len(points) == 400


@pytest.mark.parametrize("name", ["csv", "json"])
def test_a_full_disk_is_reported_and_keeps_the_file(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = get_plugins().trackers.get(name).create(tmp_path, {})
    tracker.log(1, {"ES": 1.0})
    (file,) = tmp_path.iterdir()
    before = file.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("easyedit_lifelong.atomic.os.replace", fail)
    with pytest.raises(RunError, match=rf"metrics\.{name}: can't be written: No space left on device"):
        tracker.log(2, {"ES": 1.0, "ERR": 0.5})
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]
