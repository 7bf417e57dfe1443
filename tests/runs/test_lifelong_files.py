"""The files of a lifelong run, and what is refused before the first edit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from easyedit_lifelong.data.request import Probe
from easyedit_lifelong.errors import DataError, HyperParameterError, LifelongError, RunError
from easyedit_lifelong.evaluation.metrics import METRICS
from easyedit_lifelong.runs.api import run_lifelong
from easyedit_lifelong.runs.run_folder import SCHEMA_VERSION
from tests.support.diary_method import FACTS, RETENTION, Diary, run_diary
from tests.support.progress import InterruptAfter
from tests.support.run_files import bytes_of_files, read_lines
from tests.support.table_model import TableModel


def test_the_files_of_a_run_agree_with_its_result(diary: Diary, diary_table: TableModel, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "run"
    result = run_diary(diary_table, eval_every=2, out=out, data_name="five facts", hparams={"remembers": 3})
    assert sorted(path.name for path in out.iterdir()) == [
        ".lock",
        "config.yaml",
        "generations.jsonl",
        "journal.jsonl",
        "metrics.jsonl",
        "requests.jsonl",
        "retention.json",
        "summary.json",
    ]
    assert result.folder == out
    assert read_lines(out / "journal.jsonl") == result.journal
    assert read_lines(out / "metrics.jsonl") == result.curve
    assert json.loads((out / "summary.json").read_text()) == result.summary
    config = yaml.safe_load((out / "config.yaml").read_text())
    summary = result.summary
    for file in (config, summary):
        assert file["schema_version"] == SCHEMA_VERSION
        assert (file["loop"], file["model"], file["only_errors"]) == ("lifelong", "table", False)
        assert file["schedule"] == {"every": 2, "at": [], "sample": None}
        assert file["hparams"]["remembers"] == 3
    assert (summary["method"], summary["data"], summary["n_requests"], summary["eval_every"]) == (
        "DIARY",
        "five facts",
        5,
        2,
    )
    assert config["data"] == {"name": "five facts", "path": "requests.jsonl", "format": "json"}
    assert config["retention"] == "retention.json"
    assert result.summary["metrics"] == result.metrics
    assert result.summary["timing"] == result.timing
    assert result.summary["metrics"]["ERR"] == result.curve[-1]["ERR"]


def test_the_summary_has_all_fields_and_consistent_times(diary: Diary, diary_table: TableModel, tmp_path: Path) -> None:
    run_diary(diary_table, out=tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert set(summary) >= {
        "schema_version",
        "method",
        "model",
        "data",
        "n_edits",
        "n_failed",
        "n_skipped",
        "metrics",
        "timing",
        "versions",
    }
    metrics = summary["metrics"]
    assert set(metrics) >= {"ES", "ERR", "TRR", "reliability", "generality", "locality", "generation_match"}
    assert set(metrics) <= set(METRICS), "every metric must be described in METRICS"
    assert all(isinstance(score, float) and score >= 0 for score in metrics.values())
    assert summary["metric_kinds"] == {name: METRICS[name].kind for name in metrics}
    assert set(summary["versions"]) >= {"python", "torch", "transformers", "numpy"}
    assert summary["machine"] == {"device": "cpu", "threads": torch.get_num_threads()}
    timing = summary["timing"]
    assert set(timing) >= {"seconds_per_edit", "seconds_total", "seconds_editing", "seconds_scoring", "seconds_io"}
    assert timing["seconds_io"] > 0
    assert all(isinstance(seconds, float) and seconds >= 0 for seconds in timing.values())
    assert timing["seconds_per_edit"] == pytest.approx(timing["seconds_editing"] / 5), "the failed edit must be counted"
    assert timing["seconds_total"] >= timing["seconds_editing"] + timing["seconds_scoring"] + timing["seconds_io"]


def test_the_journal_is_written_after_every_edit(diary: Diary, diary_table: TableModel, tmp_path: Path) -> None:
    counts: list[int] = []

    class LineCounter:
        def edited(self, done: int, scores: Mapping[str, float]) -> None:
            counts.append(len(read_lines(tmp_path / "run" / "journal.jsonl")))

    run_diary(diary_table, out=tmp_path / "run", progress=LineCounter())
    assert counts == [1, 2, 3, 4, 5]


def test_an_interrupted_run_keeps_its_journal_and_has_no_summary(
    diary: Diary, diary_table: TableModel, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_diary(diary_table, out=tmp_path / "run", progress=InterruptAfter(2), trackers=["notebook"])
    assert [line["case_id"] for line in read_lines(tmp_path / "run" / "journal.jsonl")] == [0, 1]
    assert not (tmp_path / "run" / "summary.json").exists()
    assert diary.tracker.closed == 1


# ------------------------------------------------------------------ refusals before the first edit


TOO_LONG = " ".join(["sea"] * 32)


def assert_refused(
    diary: Diary, diary_table: TableModel, tmp_path: Path, error: type[LifelongError], **options: Any
) -> str:
    with pytest.raises(error) as caught:
        run_diary(diary_table, **{"out": tmp_path / "run", **options})
    assert diary.events == [], "an edit was made before the check"
    assert not (tmp_path / "run").exists(), "the refused run left a folder"
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_invalid_request_is_refused_with_its_field(diary: Diary, diary_table: TableModel, tmp_path: Path) -> None:
    message = assert_refused(
        diary, diary_table, tmp_path, DataError, requests=[*FACTS, {"prompt": "p", "target_new": ""}]
    )
    assert "request 5, field 'target_new': is empty" in message


def test_a_duplicate_case_id_is_refused(diary: Diary, diary_table: TableModel, tmp_path: Path) -> None:
    message = assert_refused(diary, diary_table, tmp_path, DataError, requests=[*FACTS, {**FACTS[0], "case_id": 1}])
    assert "'case_id'" in message
    assert "1" in message


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"prompt": TOO_LONG}, "prompt"),
        ({"target_new": TOO_LONG}, "prompt"),
        ({"rephrase_prompt": ["short", TOO_LONG]}, "rephrase_prompt"),
        ({"locality_prompt": TOO_LONG, "locality_ground_truth": "x"}, "locality_prompt"),
        (
            {"relation_specificity_prompt": TOO_LONG, "relation_specificity_ground_truth": "x"},
            "relation_specificity_prompt",
        ),
        ({"portability": {"hop": {"prompt": TOO_LONG, "ground_truth": "x"}}}, "portability_prompt"),
    ],
)
def test_a_text_longer_than_the_context_is_refused_with_its_field(
    diary: Diary, diary_table: TableModel, tmp_path: Path, fields: dict[str, Any], name: str
) -> None:
    message = assert_refused(
        diary, diary_table, tmp_path, DataError, requests=[*FACTS, {**FACTS[0], **fields, "case_id": "long"}]
    )
    assert "request 5 (case long)" in message
    assert f"field {name!r}" in message
    assert "context is 32" in message
    assert "Shorten it or leave the record out" in message


def test_a_prompt_and_target_that_fill_the_context_are_accepted(diary: Diary, diary_table: TableModel) -> None:
    request = {"prompt": " ".join(["sea"] * 31), "target_new": "snow"}
    assert run_diary(diary_table, [request]).metrics["ES"] == 1.0


def test_a_held_out_fact_longer_than_the_context_is_refused(
    diary: Diary, diary_table: TableModel, tmp_path: Path
) -> None:
    message = assert_refused(diary, diary_table, tmp_path, DataError, retention=[*RETENTION, Probe(TOO_LONG, "x")])
    assert "retention" in message
    assert "context is 32" in message


@pytest.mark.parametrize("eval_every", [0, -1])
def test_eval_every_below_1_is_refused(diary: Diary, diary_table: TableModel, tmp_path: Path, eval_every: int) -> None:
    assert "eval_every" in assert_refused(diary, diary_table, tmp_path, HyperParameterError, eval_every=eval_every)


def test_an_unknown_tracker_is_refused_with_a_suggestion(diary: Diary, diary_table: TableModel, tmp_path: Path) -> None:
    message = assert_refused(diary, diary_table, tmp_path, LifelongError, trackers=["notebok"])
    assert "Did you mean 'notebook'?" in message


def test_a_run_whose_tracker_does_not_start_can_be_started_again(
    diary: Diary, diary_table: TableModel, tmp_path: Path
) -> None:
    diary.tracker_starts = False
    with pytest.raises(LifelongError, match="no paper"):
        run_diary(diary_table, out=tmp_path / "run", trackers=["notebook"])
    diary.tracker_starts = True
    run_diary(diary_table, out=tmp_path / "run", trackers=["notebook"])
    assert diary.tracker.received


def test_a_tracker_without_a_run_folder_is_refused_and_not_opened(
    diary: Diary, diary_table: TableModel, tmp_path: Path
) -> None:
    message = assert_refused(diary, diary_table, tmp_path, RunError, trackers=["notebook"], out=None)
    assert "trackers (notebook)" in message
    assert "out=" in message
    assert (diary.tracker.received, diary.tracker.closed) == ([], 0), (
        "the tracker was opened although the run was refused"
    )


def test_an_empty_list_of_requests_is_refused(diary: Diary, diary_table: TableModel, tmp_path: Path) -> None:
    assert "no requests" in assert_refused(diary, diary_table, tmp_path, DataError, requests=[])


def test_hyperparameters_of_no_registered_method_are_refused(diary_table: TableModel, tmp_path: Path) -> None:
    with pytest.raises(HyperParameterError, match="Namespace belongs to no registered editing method"):
        run_lifelong(diary_table, diary_table.tokenizer, FACTS, type("Namespace", (), {})(), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_folder_of_another_run_is_refused_and_unchanged(
    diary: Diary, diary_table: TableModel, tmp_path: Path
) -> None:
    run_diary(diary_table, FACTS[:1], out=tmp_path / "run")
    before = bytes_of_files(tmp_path / "run")
    with pytest.raises(RunError, match="holds another run"):
        run_diary(diary_table, FACTS[1:2], out=tmp_path / "run")
    assert bytes_of_files(tmp_path / "run") == before
    assert diary.events == ["edit 0"]


def test_requests_may_come_from_a_generator(diary: Diary, diary_table: TableModel) -> None:
    assert run_diary(diary_table, (fact for fact in FACTS)).summary["n_requests"] == 5
