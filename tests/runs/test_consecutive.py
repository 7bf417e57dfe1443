"""The consecutive loop: batches, scores, files, and what it refuses before the first edit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from easyedit_lifelong import run_consecutive
from easyedit_lifelong.errors import DataError, HyperParameterError, LifelongError, RunError
from easyedit_lifelong.evaluation.metrics import METRICS
from easyedit_lifelong.evaluation.scorer import Scorer
from tests.support.grace_runs import grace_hparams
from tests.support.ledger_method import (
    FACTS,
    RETENTION,
    Killed,
    Ledger,
    LedgerHyperParams,
    ledger_table,
    run_ledger,
)
from tests.support.progress import RecordingProgress
from tests.support.registry import replace_method
from tests.support.run_files import read_lines, select
from tests.support.table_model import TableModel
from tests.support.tiny_models import build_model

# ------------------------------------------------------------------ batches and scores


def test_batches_are_edited_in_order_and_a_batch_fails_as_one(ledger: Ledger, table: TableModel) -> None:
    result = run_ledger(table)
    assert ledger.events == ["edit 0", "edit 1", "edit 4"], (
        "the second batch must fail at its first request, without a trace"
    )
    assert [(entry["batch"], entry["status"], entry["n_edits"]) for entry in result.journal] == [
        (1, "edited", 1),
        (1, "edited", 2),
        (2, "failed", 2),
        (2, "failed", 2),
        (3, "edited", 3),
    ]
    assert [entry["case_id"] for entry in result.journal] == [0, 1, 2, 3, 4]
    assert result.edited_model is table
    assert "the loss became nan" in result.journal[3]["reason"], "every request of a failed batch must have the reason"
    assert (result.summary["n_edits"], result.summary["n_failed"], result.summary["n_batches"]) == (3, 2, 3)


def test_scores_equal_those_computed_by_hand(ledger: Ledger, table: TableModel) -> None:
    """Three of five facts are learned; the model still answers "song" to those of the failed batch."""
    metrics = run_ledger(table).metrics
    expected = {
        "ES": 3 / 5,
        "ERR": 3 / 5,
        "reliability": 3 / 5,
        "reliability_before": 0.5 / 5,
        "generality": 0.0,
        "generality_before": 0.0,
        "locality": 1.0,
        "portability": 1.0,
        "portability_before": 1.0,
        "TRR": 1.0,
        "TRR_before": 1.0,
        "generation_match": 3 / 5,
        "generation_match_word": 3 / 5,
        "generation_match_rephrase": 0.0,
    }
    assert select(metrics, expected) == expected


def test_forgotten_edits_lower_err_and_not_es(ledger: Ledger, table: TableModel) -> None:
    requests = [FACTS[0], FACTS[1], FACTS[3], FACTS[4]]
    result = run_ledger(table, requests, hparams={"remembers": 2}, eval_every=1)
    assert result.metrics["ES"] == 1.0
    assert [point["n_edits"] for point in result.curve] == [2, 4]
    assert [point["batch"] for point in result.curve] == [1, 2]
    assert result.curve[0]["ERR"] == 1.0
    # "Rome" is forgotten; "old king" is half right: its first token is wrong, but given "old" the table says "king".
    assert result.metrics["ERR"] == result.metrics["reliability"] == (0 + 0.5 + 1 + 1) / 4


@pytest.mark.parametrize(
    ("eval_every", "points"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (5, [5]), (None, [5]), (20, [5])]
)
def test_eval_every_counts_batches(
    ledger: Ledger, table: TableModel, eval_every: int | None, points: list[int]
) -> None:
    result = run_ledger(table, batch_size=1, eval_every=eval_every)
    assert [point["batch"] for point in result.curve] == points
    assert [("generation_match" in point) for point in result.curve] == [False] * (len(points) - 1) + [True]
    assert result.summary["eval_every"] == (eval_every or 20)


def test_the_default_batch_size_is_that_of_the_hyperparameters(ledger: Ledger, table: TableModel) -> None:
    assert run_ledger(table, batch_size=None, hparams={"batch_size": 3}).summary["n_batches"] == 2


def test_the_requests_of_a_batch_share_its_seconds(ledger: Ledger, table: TableModel) -> None:
    result = run_ledger(table)
    first, second = result.journal[:2]
    assert first["seconds"] == second["seconds"] > 0
    timing = result.timing
    assert timing["seconds_editing"] == pytest.approx(sum(entry["seconds"] for entry in result.journal))
    assert timing["seconds_per_edit"] == pytest.approx(timing["seconds_editing"] / 5)
    assert timing["seconds_total"] >= timing["seconds_editing"] + timing["seconds_scoring"]


def test_progress_is_reported_after_every_batch(ledger: Ledger, table: TableModel) -> None:
    progress = RecordingProgress()
    run_ledger(table, eval_every=2, progress=progress)
    assert [done for done, _ in progress.reports] == [2, 4, 5]
    assert progress.reports[0][1] == {"ES": 1.0}
    assert progress.reports[1][1] == {"ES": 0.5, "ERR": 0.5, "TRR": 1.0, "locality": 1.0}


GRACE_FACTS = [fact for fact in FACTS if "moon" not in fact["prompt"]]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_metrics_equal_a_direct_computation_with_grace(name: str, tokenizer: Any) -> None:
    from easyedit_lifelong import apply_grace_to_model

    result = run_consecutive(
        build_model(name), tokenizer, GRACE_FACTS, grace_hparams(name, batch_size=2), retention=RETENTION
    )
    model, scorer = build_model(name), Scorer(tokenizer)
    questions = [(fact["prompt"], fact["target_new"]) for fact in GRACE_FACTS]
    locality = [("who plays piano", "bird")]
    unedited, before = scorer.forced(model, questions), scorer.forced(model, locality)
    directly_after = []
    for start in (0, 2):
        apply_grace_to_model(model, tokenizer, GRACE_FACTS[start : start + 2], grace_hparams(name, batch_size=2))
        directly_after += scorer.forced(model, questions[start : start + 2])
    after = scorer.forced(model, questions)

    def share(scores: Any) -> float:
        return sum(score.accuracy for score in scores) / len(scores)

    metrics = result.metrics
    assert (metrics["ES"], metrics["ERR"]) == (share(directly_after), share(after))
    assert metrics["reliability"] == share(after) > metrics["reliability_before"] == share(unedited)
    assert metrics["locality"] == scorer.forced(model, locality)[0].agreement(before[0])
    assert metrics["generality"] == share(scorer.forced(model, [("capital of France", "Rome")]))
    answers = scorer.generate(model, [prompt for prompt, _ in questions], 2)
    matches = [
        text.split()[: len(target.split())] == target.split()
        for text, (_, target) in zip(answers, questions, strict=True)
    ]
    assert metrics["generation_match"] == sum(matches) / 4
    assert all(entry["n_keys"] for entry in result.journal), "the journal must have the details that the method reports"


# ------------------------------------------------------------------ files


def test_the_files_of_a_run_agree_with_its_result(ledger: Ledger, table: TableModel, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "run"
    result = run_ledger(table, eval_every=1, out=out, data_name="five facts", trackers=["pad"])
    assert sorted(path.name for path in out.iterdir()) == [
        ".lock",
        "config.yaml",
        "generations.jsonl",
        "journal.jsonl",
        "metrics.jsonl",
        "requests.jsonl",
        "retention.json",
        "state",
        "summary.json",
    ]
    assert read_lines(out / "journal.jsonl") == result.journal
    assert read_lines(out / "metrics.jsonl") == result.curve
    assert json.loads((out / "summary.json").read_text()) == result.summary
    assert result.folder == out
    assert [{"n_edits": step, **metrics} for step, metrics in ledger.notebook.received] == result.curve
    config = yaml.safe_load((out / "config.yaml").read_text())
    summary = result.summary
    for file in (config, summary):
        assert (file["loop"], file["model"], file["protocol"], file["batch_size"]) == (
            "consecutive",
            "table",
            "consecutive",
            2,
        )
        assert file["schedule"] == {"every": 1, "at": [], "sample": None}
    assert (summary["method"], summary["data"], summary["n_requests"], summary["eval_every"]) == (
        "LEDGER",
        "five facts",
        5,
        1,
    )
    assert set(result.metrics) <= set(METRICS), "every metric must be described in METRICS"
    assert sorted(path.name for path in (out / "state").iterdir()) == ["after-000002", "after-000003"], (
        "the states of the latest two batches must be kept"
    )


def test_the_state_of_a_batch_is_written_before_its_journal_lines(
    ledger: Ledger, table: TableModel, tmp_path: Path
) -> None:
    ledger.kill = ("save", 2)
    with pytest.raises(Killed):
        run_ledger(table, [FACTS[0], FACTS[1], FACTS[3]], out=tmp_path / "run")
    assert [line["case_id"] for line in read_lines(tmp_path / "run" / "journal.jsonl")] == [0, 1]
    assert [path.name for path in (tmp_path / "run" / "state").iterdir() if not path.name.startswith(".")] == [
        "after-000002"
    ]


# ------------------------------------------------------------------ refusals before the first edit


UNUSABLE = {"prompt": "who plays violin", "target_new": "bird", "case_id": "v"}


def assert_refused(ledger: Ledger, tmp_path: Path, error: type[LifelongError], **options: Any) -> str:
    with pytest.raises(error) as caught:
        run_ledger(ledger_table(), **{"out": tmp_path / "run", **options})
    assert ledger.events == [], "an edit was made before the check"
    assert not (tmp_path / "run").exists(), "the refused run left a folder"
    return str(caught.value)


def test_a_record_that_the_method_cannot_use_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    message = assert_refused(ledger, tmp_path, DataError, requests=[*FACTS, UNUSABLE])
    assert message == "request 5 (case v), field 'prompt': is about violins"


def test_the_lifelong_loop_refuses_records_that_the_method_cannot_use(ledger: Ledger, table: TableModel) -> None:
    from easyedit_lifelong import run_lifelong

    with pytest.raises(DataError, match="is about violins"):
        run_lifelong(table, table.tokenizer, [*FACTS, UNUSABLE], LedgerHyperParams(model_name="m"))
    assert ledger.events == []


def test_skip_unusable_leaves_records_out_and_lists_them(ledger: Ledger, table: TableModel, tmp_path: Path) -> None:
    too_long = {"prompt": " ".join(["sea"] * 32), "target_new": "blue", "case_id": "long"}
    result = run_ledger(
        table, [UNUSABLE, FACTS[0], too_long, FACTS[1], FACTS[4]], skip_unusable=True, out=tmp_path / "run"
    )
    assert [entry["case_id"] for entry in result.journal] == [1, 3, 4]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["n_requests"], summary["n_edits"], summary["n_skipped"]) == (5, 3, 2)
    assert [left_out["case_id"] for left_out in summary["skipped"]] == ["v", "long"]
    assert "about violins" in summary["skipped"][0]["reason"]
    assert "context is 32" in summary["skipped"][1]["reason"]
    assert result.metrics["reliability"] == 1.0
    resumed = run_ledger(
        ledger_table(),
        [UNUSABLE, FACTS[0], too_long, FACTS[1], FACTS[4]],
        skip_unusable=True,
        out=tmp_path / "run",
        resume=True,
    )
    assert resumed.summary["skipped"] == summary["skipped"]


def test_a_run_without_any_usable_record_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    message = assert_refused(ledger, tmp_path, DataError, requests=[UNUSABLE], skip_unusable=True)
    assert "none of the requests (1) can be used" in message
    assert "violins" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: 0"),
        ({"batch_size": True}, "batch_size: True"),
        ({"eval_every": 0}, "eval_every: 0"),
        ({"eval_every": -1}, "eval_every: -1"),
    ],
)
def test_invalid_batch_sizes_and_intervals_are_refused(
    ledger: Ledger, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    assert message in assert_refused(ledger, tmp_path, HyperParameterError, **options)


def test_a_method_that_edits_one_request_at_a_time_needs_batch_size_1(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_method(monkeypatch, "LEDGER", batchable=False)
    assert "LEDGER edits one request at a time. Use 1." in assert_refused(ledger, tmp_path, HyperParameterError)
    assert run_ledger(ledger_table(), [FACTS[0], FACTS[4]], batch_size=1).metrics["ES"] == 1.0


def test_incomplete_or_contradictory_arguments_are_refused(ledger: Ledger, tmp_path: Path) -> None:
    assert "no requests" in assert_refused(ledger, tmp_path, DataError, requests=[])
    assert "'case_id'" in assert_refused(ledger, tmp_path, DataError, requests=[FACTS[0], {**FACTS[1], "case_id": 0}])
    assert "out=" in assert_refused(ledger, tmp_path, RunError, trackers=["pad"], out=None)
    with pytest.raises(HyperParameterError, match="belongs to no registered editing method"):
        run_consecutive(
            ledger_table(),
            ledger_table().tokenizer,
            FACTS,
            type("Namespace", (), {"batch_size": 1})(),
        )


def test_the_folder_of_another_run_is_refused(ledger: Ledger, table: TableModel, tmp_path: Path) -> None:
    run_ledger(table, out=tmp_path / "run")
    with pytest.raises(RunError, match=r"holds another run.*--resume continues it"):
        run_ledger(table, out=tmp_path / "run")
