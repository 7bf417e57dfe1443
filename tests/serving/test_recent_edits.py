"""After an edit, the model is asked again about the recent edits that it can have changed, and about no others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong.serving.measured_edits import MeasuredEdit, MeasuredEdits
from tests.support.served_models import fine_tuning, grace, live_model, requests


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The ids of the edits that the model was asked about, one list for each time."""
    record: list[list[str]] = []
    answered = MeasuredEdits.answered

    def recorded(self: MeasuredEdits, model: Any, edits: Sequence[MeasuredEdit]) -> dict[str, bool]:
        record.append([edit.id for edit in edits])
        return answered(self, model, edits)

    monkeypatch.setattr(MeasuredEdits, "answered", recorded)
    return record


def test_an_edit_is_measured_again_where_another_edit_acts(tmp_path: Path, asked: list[list[str]]) -> None:
    with live_model(tmp_path, grace()) as live:
        live.add(requests(0, 1), "key")
        live.add(requests(2), "key")  # a single edit's text shows whether it was learned
        assert asked == [["f0", "f1"]]
        assert live.add(requests(4), "key").superseded == ["f0"]  # the same prompt with another target
        assert asked[1:] == [["f0"]]


def test_after_a_removal_all_recent_edits_are_measured(tmp_path: Path, asked: list[list[str]]) -> None:
    with live_model(tmp_path, grace()) as live:
        live.add(requests(0, 1, 4), "key")
        live.delete("f4", "key")
        del asked[:]
        assert live.add(requests(2), "key").superseded == []
        assert asked == [["f0", "f1"]]


def test_edits_in_weights_are_all_measured_again(tmp_path: Path, asked: list[list[str]]) -> None:
    with live_model(tmp_path, fine_tuning()) as live:
        live.add(requests(0), "key")
        live.add(requests(1), "key")
        live.add(requests(2), "key")
        learned = [live.log.edits[name]["learned"] for name in ("f0", "f1", "f2")]
        assert learned == [True, False, True]  # only the text of an edit that is not learned leaves this open
        assert asked == [["f0", "f1"], ["f0", "f1"]]
