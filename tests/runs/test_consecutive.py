"""The consecutive-batch loop, on a model whose every answer is known and on real ones."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from easyedit_lifelong import run_consecutive
from easyedit_lifelong.errors import DataError, HyperParameterError, LifelongError, RunError
from easyedit_lifelong.evaluation.metrics import METRICS
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.plugins import get_plugins
from tests.support.ledger_method import (
    FACTS,
    MANY,
    PROMPTS,
    RETENTION,
    Killed,
    Ledger,
    LedgerHyperParams,
    Plugin,
    known_table,
    run_ledger,
)
from tests.support.registry import replace_method
from tests.support.table_model import TableModel
from tests.support.tiny_models import FAMILIES, WORDS, build_model, state_of


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    """The method, registered for one test."""
    plugin, plugins = Plugin(), get_plugins()
    plugins.add(plugin, "test-ledger")
    plugin.ledger.notebook = plugin.notebook
    yield plugin.ledger
    plugins.remove("test-ledger")


@pytest.fixture
def table() -> TableModel:
    return known_table()


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ------------------------------------------------------------------ consecutive


def test_batches_in_order(ledger: Ledger, table: TableModel) -> None:
    result = run_ledger(table)
    assert ledger.events == ["edit 0", "edit 1", "edit 4"], "the second batch failed"
    assert [(e["batch"], e["status"], e["n_edits"]) for e in result.journal] == [
        (1, "edited", 1),
        (1, "edited", 2),
        (2, "failed", 2),
        (2, "failed", 2),
        (3, "edited", 3),
    ]
    assert [e["case_id"] for e in result.journal] == [0, 1, 2, 3, 4]
    assert result.edited_model is table
    assert "the loss became nan" in result.journal[3]["reason"], "the reason is the whole batch's"
    assert (result.summary["n_edits"], result.summary["n_failed"], result.summary["n_batches"]) == (3, 2, 3)


def test_scores_by_hand(ledger: Ledger, table: TableModel) -> None:
    """Three of five are learned; the failed batch counts as what the model says: "song"."""
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
    assert {name: metrics.get(name) for name in expected} == expected


def test_forgetting_shows_in_retention_and_not_in_success(ledger: Ledger, table: TableModel) -> None:
    requests = [FACTS[0], FACTS[1], FACTS[3], FACTS[4]]
    result = run_ledger(table, requests, hparams={"remembers": 2}, eval_every=1)
    assert result.metrics["ES"] == 1.0
    assert [point["n_edits"] for point in result.curve] == [2, 4]
    assert [point["batch"] for point in result.curve] == [1, 2]
    assert result.curve[0]["ERR"] == 1.0
    # "Rome" is forgotten; along "old king", "not" is wrong, and given "old" the table still says "king".
    assert result.metrics["ERR"] == result.metrics["reliability"] == (0 + 0.5 + 1 + 1) / 4


@pytest.mark.parametrize(
    ("eval_every", "points"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (5, [5]), (None, [5]), (20, [5])]
)
def test_intervals_are_counted_in_batches(
    ledger: Ledger, table: TableModel, eval_every: int | None, points: list[int]
) -> None:
    result = run_ledger(table, batch_size=1, eval_every=eval_every)
    assert [point["batch"] for point in result.curve] == points
    assert [("generation_match" in point) for point in result.curve] == [False] * (len(points) - 1) + [True]
    assert result.summary["eval_every"] == (eval_every or 20)


def test_the_batch_size_is_the_hyperparameters(ledger: Ledger, table: TableModel) -> None:
    assert run_ledger(table, batch_size=None, hparams={"batch_size": 3}).summary["n_batches"] == 2


def test_a_batch_shares_its_seconds(ledger: Ledger, table: TableModel) -> None:
    result = run_ledger(table)
    first, second = result.journal[:2]
    assert first["seconds"] == second["seconds"] > 0
    timing = result.timing
    assert timing["seconds_editing"] == pytest.approx(sum(entry["seconds"] for entry in result.journal))
    assert timing["seconds_per_edit"] == pytest.approx(timing["seconds_editing"] / 5)
    assert timing["seconds_total"] >= timing["seconds_editing"] + timing["seconds_scoring"]


def test_progress_after_every_batch(ledger: Ledger, table: TableModel) -> None:
    heard: list[tuple[int, dict[str, float]]] = []

    class Listener:
        def edited(self, done: int, scores: Mapping[str, float]) -> None:
            heard.append((done, dict(scores)))

    run_ledger(table, eval_every=2, progress=Listener())
    assert [done for done, _ in heard] == [2, 4, 5]
    assert heard[0][1] == {"ES": 1.0}
    assert heard[1][1] == {"ES": 0.5, "ERR": 0.5, "TRR": 1.0, "locality": 1.0}


# ------------------------------------------------------------------ single-round


def test_single_round_scores_each_under_its_own_batch(ledger: Ledger, table: TableModel) -> None:
    """Two requests on one prompt would overwrite each other; alone, each is learned."""
    table.learn("capital of France", "Rome")
    before = dict(table.table)
    again = {**FACTS[0], "case_id": "again", "target_new": "Berlin", "rephrase_prompt": []}
    result = run_ledger(table, [FACTS[0], FACTS[1], again], consecutive=False)
    assert table.table == before
    assert ledger.events == ["edit 0", "edit 1", "undo", "edit again", "undo"]
    assert result.metrics["reliability"] == result.metrics["ES"] == result.metrics["ERR"] == 1.0
    assert result.metrics["reliability_before"] == 0.5 / 3
    assert result.metrics["generality"] == result.metrics["generality_before"] == 1.0, (
        "of the one that has another wording"
    )
    assert result.metrics["generation_match"] == 1.0
    assert result.summary["protocol"] == "single-round"
    assert [entry["n_edits"] for entry in result.journal] == [1, 2, 3]


def test_single_round_with_a_failed_batch(ledger: Ledger, table: TableModel) -> None:
    """It counts as what the unedited model says."""
    table.learn("language spoken in Peru", "Spanish")
    result = run_ledger(table, consecutive=False)
    assert ledger.events == ["edit 0", "edit 1", "undo", "edit 4", "undo"]
    assert [entry["ES"] for entry in result.journal] == [1, 1, 0, 1, 1]
    assert result.metrics["reliability"] == 4 / 5
    assert (result.summary["n_edits"], result.summary["n_failed"]) == (3, 2)


def test_single_round_averages_over_records_not_batches(ledger: Ledger, table: TableModel) -> None:
    """A batch of two and one of one: each record counts alike, also for the held-out facts."""
    spoiling = {"prompt": "the river", "target_new": "blue"}
    result = run_ledger(table, [FACTS[0], FACTS[1], spoiling], consecutive=False, eval_every=1)
    assert result.metrics["TRR"] == pytest.approx((1 + 1 + 0) / 3)
    assert [point["TRR"] for point in result.curve] == [1.0, pytest.approx(2 / 3)]
    assert result.metrics["TRR_before"] == 1.0


def test_single_round_scores_are_in_the_journal(ledger: Ledger, table: TableModel, tmp_path: Path) -> None:
    run_ledger(table, consecutive=False, out=tmp_path / "run")
    first = _lines(tmp_path / "run" / "journal.jsonl")[0]["scores"]
    assert first["reliability"] == first["locality"] == first["portability"] == first["TRR"] == [1.0]
    assert first["generality"] == [0.0]
    assert not (tmp_path / "run" / "state").exists()


@pytest.mark.parametrize(("consecutive", "course"), [(True, [1.0, 0.0]), (False, [1.0, 1.0])])
def test_relation_specificity(ledger: Ledger, table: TableModel, consecutive: bool, course: list[float]) -> None:
    """The second batch changes what the first one's request asks; in a round of its own it isn't there."""
    other = {"relation_specificity_prompt": PROMPTS[3], "relation_specificity_ground_truth": "blue"}
    result = run_ledger(table, [FACTS[0] | other, FACTS[3]], batch_size=1, consecutive=consecutive, eval_every=1)
    assert [point["relation_specificity"] for point in result.curve] == course
    assert result.metrics["relation_specificity"] == course[-1]
    assert result.metrics["locality"] == 1.0
    if not consecutive:
        assert [entry["scores"]["relation_specificity"] for entry in result.journal] == [[1.0], []]


def test_single_round_needs_a_way_back(ledger: Ledger, table: TableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def apply(model: Any, *_: Any) -> Any:
        return model, None

    replace_method(monkeypatch, "LEDGER", apply=apply)
    with pytest.raises(RunError, match="LEDGER returns no rollback"):
        run_ledger(table, consecutive=False)


# ------------------------------------------------------------------ on disk


def test_files_agree_with_the_result(ledger: Ledger, table: TableModel, tmp_path: Path) -> None:
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
    assert _lines(out / "journal.jsonl") == result.journal
    assert _lines(out / "metrics.jsonl") == result.curve
    assert json.loads((out / "summary.json").read_text()) == result.summary
    assert result.folder == out
    assert [{"n_edits": step, **told} for step, told in ledger.notebook.heard] == result.curve
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
    assert set(result.metrics) <= set(METRICS), "a metric without a meaning"
    assert sorted(path.name for path in (out / "state").iterdir()) == ["after-000002", "after-000003"], "the latest two"


def test_the_state_is_on_disk_before_the_journal_says_so(ledger: Ledger, table: TableModel, tmp_path: Path) -> None:
    ledger.kill = ("save", 2)
    with pytest.raises(Killed):
        run_ledger(table, [FACTS[0], FACTS[1], FACTS[3]], out=tmp_path / "run")
    assert [line["case_id"] for line in _lines(tmp_path / "run" / "journal.jsonl")] == [0, 1]
    assert [path.name for path in (tmp_path / "run" / "state").iterdir() if not path.name.startswith(".")] == [
        "after-000002"
    ]


# ------------------------------------------------------------------ resuming


def _timeless(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in entry.items() if "seconds" not in name} for entry in entries]


def _same(result: Any, other: Any) -> bool:
    assert result.metrics == other.metrics
    assert _timeless(result.journal) == _timeless(other.journal)
    assert _timeless(result.curve) == _timeless(other.curve)
    assert _timeless(_lines(result.folder / "journal.jsonl")) == _timeless(other.journal)
    assert _timeless(_lines(result.folder / "metrics.jsonl")) == _timeless(other.curve)
    drop = ("timing", "finished", "data")
    left, right = ({k: v for k, v in run.summary.items() if k not in drop} for run in (result, other))
    assert left == right
    return True


@pytest.mark.parametrize(
    ("kill", "consecutive"),
    [(("edit", n), protocol) for n in (1, 2, 3, 4, 7) for protocol in (True, False)]
    + [(("save", 1), True), (("save", 3), True), (("undo", 2), False)],
)
def test_a_killed_run_goes_on_as_if_it_had_not_been(
    ledger: Ledger, tmp_path: Path, kill: tuple[str, int], consecutive: bool
) -> None:
    options: dict[str, Any] = {"eval_every": 2, "hparams": {"remembers": 3}, "consecutive": consecutive}
    whole = run_ledger(known_table(), MANY, out=tmp_path / "whole", **options)
    ledger.kill = kill
    with pytest.raises(Killed):
        run_ledger(known_table(), MANY, out=tmp_path / "run", **options)
    ledger.kill = None
    done = len(_lines(tmp_path / "run" / "journal.jsonl")) if (tmp_path / "run" / "journal.jsonl").exists() else 0
    ledger.events.clear()
    table = known_table()
    resumed = run_ledger(table, MANY, out=tmp_path / "run", resume=True, trackers=["pad"], **options)
    assert _same(resumed, whole)
    assert not [event for event in ledger.events if event.startswith("edit ") and int(event[5:]) < done]
    told = [{"n_edits": step, **metrics} for step, metrics in ledger.notebook.heard]
    assert _timeless(told) == _timeless(whole.curve), "a tracker hears the whole story"


def _run_until_killed(out: Path, where: str, after: int) -> None:
    """Run in this process, and kill it when an event happens for the ``after``-th time."""
    plugin, left = Plugin(), [after]
    get_plugins().remove("test-ledger")
    get_plugins().add(plugin, "test-ledger")

    def count(event: str) -> None:
        if event.split()[0] == where:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    class Listener:
        def edited(self, done: int, scores: Mapping[str, float]) -> None:
            count("journaled")

    plugin.ledger.happens = count  # type: ignore[method-assign]
    run_ledger(known_table(), MANY, out=out, eval_every=2, progress=Listener())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
@pytest.mark.parametrize("kill", [("edit", 4), ("save", 3), ("journaled", 3)])
def test_a_run_resumes_after_sigkill(ledger: Ledger, tmp_path: Path, kill: tuple[str, int]) -> None:
    """Inside a batch, inside the writing of its state, and between two batches."""
    child = multiprocessing.get_context("fork").Process(target=_run_until_killed, args=(tmp_path / "run", *kill))
    child.start()
    child.join(timeout=300)
    assert child.exitcode == -signal.SIGKILL
    resumed = run_ledger(known_table(), MANY, out=tmp_path / "run", eval_every=2, resume=True)
    assert _same(resumed, run_ledger(known_table(), MANY, out=tmp_path / "whole", eval_every=2))


@pytest.mark.parametrize("torn", ['{"status": "edi', "", "\n\n"])
def test_a_torn_journal_is_healed(ledger: Ledger, tmp_path: Path, torn: str) -> None:
    """The last line stops in its middle; and of its batch, one line alone was written."""
    whole = run_ledger(known_table(), MANY, out=tmp_path / "whole")
    ledger.kill = ("edit", 5)
    with pytest.raises(Killed):
        run_ledger(known_table(), MANY, out=tmp_path / "run")
    ledger.kill = None
    journal = tmp_path / "run" / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    if torn == "\n\n":
        journal.write_text("".join(lines) + torn)
        with pytest.raises(RunError, match=r"line 5: is not JSON"):
            run_ledger(known_table(), MANY, out=tmp_path / "run", resume=True)
        return
    journal.write_text("".join(lines[:3]) + torn)
    assert _same(run_ledger(known_table(), MANY, out=tmp_path / "run", resume=True), whole)


def test_killed_between_a_batch_and_its_scoring(ledger: Ledger, tmp_path: Path) -> None:
    whole = run_ledger(known_table(), MANY, out=tmp_path / "whole", eval_every=2)
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]) + '{"n_edits": 1')
    (tmp_path / "run" / "summary.json").unlink()
    ledger.events.clear()
    assert _same(run_ledger(known_table(), MANY, out=tmp_path / "run", eval_every=2, resume=True), whole)
    assert ledger.events == ["load"]


def test_a_finished_run_is_left_as_it_is(ledger: Ledger, tmp_path: Path) -> None:
    whole = run_ledger(known_table(), MANY, out=tmp_path / "run")
    summary = (tmp_path / "run" / "summary.json").read_bytes()
    ledger.events.clear()
    table = known_table()
    again = run_ledger(table, MANY, out=tmp_path / "run", resume=True)
    assert ledger.events == ["load"]
    assert (tmp_path / "run" / "summary.json").read_bytes() == summary
    assert again.metrics == whole.metrics
    assert Scorer(table.tokenizer).forced(table, [("river sea", "blue snow")])[0].exact, "the model carries the edits"


def test_timing_counts_what_was_done_before(ledger: Ledger, tmp_path: Path) -> None:
    ledger.kill = ("edit", 5)
    with pytest.raises(Killed):
        run_ledger(known_table(), MANY, out=tmp_path / "run")
    ledger.kill = None
    journal = tmp_path / "run" / "journal.jsonl"
    slow = [{**entry, "seconds": 100.0} for entry in _lines(journal)]
    journal.write_text("".join(json.dumps(entry) + "\n" for entry in slow))
    timing = run_ledger(known_table(), MANY, out=tmp_path / "run", resume=True).timing
    assert 400 < timing["seconds_editing"] < 401
    assert timing["seconds_total"] >= timing["seconds_editing"] + timing["seconds_scoring"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 3}, "batch_size was 2, is 3"),
        ({"hparams": {"remembers": 5}}, "hparams.remembers was 1000, is 5"),
        ({"consecutive": False}, "protocol was 'consecutive', is 'single-round'"),
        ({"eval_every": 7}, "schedule.every was 20, is 7"),
        ({"requests": MANY[:3]}, "n_requests was 12, is 3"),
        ({"requests": [*MANY[:11], FACTS[0] | {"case_id": 11}]}, "requests_sha256 was"),
        ({"retention": []}, "requests_sha256 was"),
        ({"table": TableModel()}, "weights was"),
    ],
)
def test_other_settings_refuse_to_resume(ledger: Ledger, tmp_path: Path, options: dict[str, Any], says: str) -> None:
    run_ledger(known_table(), MANY, out=tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    with pytest.raises(RunError, match="can't be resumed with other settings") as caught:
        run_ledger(**{"table": known_table(), "requests": MANY, "out": tmp_path / "run", "resume": True, **options})
    assert says in str(caught.value)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()} == before


def test_another_device_is_no_other_setting(ledger: Ledger, tmp_path: Path) -> None:
    whole = run_ledger(known_table(), MANY, out=tmp_path / "run", hparams={"device": "cuda:3"})
    resumed = run_ledger(known_table(), MANY, out=tmp_path / "run", hparams={"device": "cpu"}, resume=True)
    assert resumed.metrics == whole.metrics


def test_nothing_to_resume(ledger: Ledger, table: TableModel, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run to resume"):
        run_ledger(table, out=tmp_path / "nothing", resume=True)
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(RunError, match="out="):
        run_ledger(table, resume=True)
    (tmp_path / "config.yaml").write_text("- 5")
    with pytest.raises(RunError, match=r"isn't the config\.yaml of a run"):
        run_ledger(table, out=tmp_path, resume=True)


def test_a_state_that_is_gone(ledger: Ledger, tmp_path: Path) -> None:
    run_ledger(known_table(), MANY, out=tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "state")
    with pytest.raises(RunError, match="the edits that the journal lists aren't there"):
        run_ledger(known_table(), MANY, out=tmp_path / "run", resume=True)


def test_a_method_that_saves_nothing(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_method(monkeypatch, "LEDGER", state=None)
    ledger.kill = ("edit", 5)
    with pytest.raises(Killed):
        run_ledger(known_table(), MANY, out=tmp_path / "run")
    ledger.kill = None
    with pytest.raises(RunError, match="LEDGER can't save its edits, so a consecutive run of it can't be resumed"):
        run_ledger(known_table(), MANY, out=tmp_path / "run", resume=True)
    run_ledger(known_table(), MANY, out=tmp_path / "single", consecutive=False)
    run_ledger(known_table(), MANY, out=tmp_path / "single", consecutive=False, resume=True)  # each batch stands alone


# ------------------------------------------------------------------ what can't be used


def _refused(ledger: Ledger, tmp_path: Path, error: type[LifelongError], **options: Any) -> str:
    with pytest.raises(error) as caught:
        run_ledger(known_table(), **{"out": tmp_path / "run", **options})
    assert ledger.events == [], "something was edited before the check"
    assert not (tmp_path / "run").exists(), "a folder was made for a run that never began"
    return str(caught.value)


VIOLIN = {"prompt": "who plays violin", "target_new": "bird", "case_id": "v"}


def test_a_record_the_method_cannot_use(ledger: Ledger, tmp_path: Path) -> None:
    message = _refused(ledger, tmp_path, DataError, requests=[*FACTS, VIOLIN])
    assert message == "request 5 (case v), field 'prompt': is about violins"


def test_checked_in_the_lifelong_loop_too(ledger: Ledger, table: TableModel) -> None:
    from easyedit_lifelong import run_lifelong

    with pytest.raises(DataError, match="is about violins"):
        run_lifelong(table, table.tokenizer, [*FACTS, VIOLIN], LedgerHyperParams(model_name="m"))
    assert ledger.events == []


def test_unusable_records_can_be_left_out_and_are_listed(ledger: Ledger, table: TableModel, tmp_path: Path) -> None:
    long = {"prompt": " ".join(["sea"] * 32), "target_new": "blue", "case_id": "long"}
    result = run_ledger(table, [VIOLIN, FACTS[0], long, FACTS[1], FACTS[4]], skip_unusable=True, out=tmp_path / "run")
    assert [entry["case_id"] for entry in result.journal] == [1, 3, 4]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["n_requests"], summary["n_edits"], summary["n_skipped"]) == (5, 3, 2)
    assert [left_out["case_id"] for left_out in summary["skipped"]] == ["v", "long"]
    assert "about violins" in summary["skipped"][0]["reason"]
    assert "context is 32" in summary["skipped"][1]["reason"]
    assert result.metrics["reliability"] == 1.0
    again = run_ledger(
        known_table(),
        [VIOLIN, FACTS[0], long, FACTS[1], FACTS[4]],
        skip_unusable=True,
        out=tmp_path / "run",
        resume=True,
    )
    assert again.summary["skipped"] == summary["skipped"]


def test_nothing_usable(ledger: Ledger, tmp_path: Path) -> None:
    message = _refused(ledger, tmp_path, DataError, requests=[VIOLIN], skip_unusable=True)
    assert "none of the 1 requests can be used" in message
    assert "violins" in message


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 0}, "batch_size: 0"),
        ({"batch_size": True}, "batch_size: True"),
        ({"eval_every": 0}, "eval_every: 0"),
        ({"eval_every": -1}, "eval_every: -1"),
    ],
)
def test_numbers_that_make_no_sense(ledger: Ledger, tmp_path: Path, options: dict[str, Any], says: str) -> None:
    assert says in _refused(ledger, tmp_path, HyperParameterError, **options)


def test_a_method_that_edits_one_at_a_time(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_method(monkeypatch, "LEDGER", batchable=False)
    assert "LEDGER edits one request at a time. Use 1." in _refused(ledger, tmp_path, HyperParameterError)
    assert run_ledger(known_table(), [FACTS[0], FACTS[4]], batch_size=1).metrics["ES"] == 1.0


def test_other_refusals(ledger: Ledger, tmp_path: Path) -> None:
    assert "no requests" in _refused(ledger, tmp_path, DataError, requests=[])
    assert "'case_id'" in _refused(ledger, tmp_path, DataError, requests=[FACTS[0], {**FACTS[1], "case_id": 0}])
    assert "out=" in _refused(ledger, tmp_path, RunError, trackers=["pad"], out=None)
    with pytest.raises(HyperParameterError, match="belongs to no registered editing method"):
        run_consecutive(known_table(), known_table().tokenizer, FACTS, type("Namespace", (), {"batch_size": 1})())


def test_another_runs_folder(ledger: Ledger, table: TableModel, tmp_path: Path) -> None:
    run_ledger(table, out=tmp_path / "run")
    with pytest.raises(RunError, match=r"holds another run.*--resume goes on with it"):
        run_ledger(table, out=tmp_path / "run")


# ------------------------------------------------------------------ on real architectures


def _grace(name: str = "llama") -> GraceHyperParams:
    return GraceHyperParams(
        model_name=name, inner_params=[FAMILIES[name][1]], n_iter=60, eps=0.5, stop_loss=0.5, batch_size=2
    )


REAL = [fact for fact in FACTS if "moon" not in fact["prompt"]]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_numbers_are_those_of_a_direct_computation(name: str, tokenizer: Any) -> None:
    from easyedit_lifelong import apply_grace_to_model

    result = run_consecutive(build_model(name), tokenizer, REAL, _grace(name), retention=RETENTION)
    model, scorer = build_model(name), Scorer(tokenizer)
    questions = [(fact["prompt"], fact["target_new"]) for fact in REAL]
    aside = [("who plays piano", "bird")]
    unedited, before = scorer.forced(model, questions), scorer.forced(model, aside)
    right_after = []
    for start in (0, 2):
        apply_grace_to_model(model, tokenizer, REAL[start : start + 2], _grace(name))
        right_after += scorer.forced(model, questions[start : start + 2])
    after = scorer.forced(model, questions)

    def share(scores: Any) -> float:
        return sum(score.accuracy for score in scores) / len(scores)

    metrics = result.metrics
    assert (metrics["ES"], metrics["ERR"]) == (share(right_after), share(after))
    assert metrics["reliability"] == share(after) > metrics["reliability_before"] == share(unedited)
    assert metrics["locality"] == scorer.forced(model, aside)[0].agreement(before[0])
    assert metrics["generality"] == share(scorer.forced(model, [("capital of France", "Rome")]))
    said = scorer.generate(model, [prompt for prompt, _ in questions], 2)
    hits = [
        text.split()[: len(target.split())] == target.split() for text, (_, target) in zip(said, questions, strict=True)
    ]
    assert metrics["generation_match"] == sum(hits) / 4
    assert all(entry["n_keys"] for entry in result.journal), "what the method reports is in the journal"


def test_single_round_restores_the_model_bitwise(family: str, tokenizer: Any) -> None:
    model = build_model(family)
    state, inputs = state_of(model), tokenizer(PROMPTS[0], return_tensors="pt")
    logits = model(**inputs).logits
    result = run_consecutive(model, tokenizer, REAL, _grace(family), consecutive=False, retention=RETENTION)
    assert result.metrics["reliability"] > result.metrics["reliability_before"]
    after = state_of(model)
    assert after.keys() == state.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in state.items())
    assert torch.equal(model(**inputs).logits, logits)


def test_single_round_is_each_batch_on_a_fresh_model(tokenizer: Any) -> None:
    result = run_consecutive(build_model("llama"), tokenizer, REAL, _grace(), consecutive=False, retention=RETENTION)
    apart = [
        run_consecutive(build_model("llama"), tokenizer, REAL[start : start + 2], _grace(), retention=RETENTION)
        for start in (0, 2)
    ]
    for name in ("reliability", "ES", "generation_match"):
        assert result.metrics[name] == sum(run.metrics[name] for run in apart) / 2


def test_coachhook_killed_and_resumed(tokenizer: Any, tmp_path: Path) -> None:
    """The method that the loop was made for, with statistics of a little text."""
    from tests.support.coachhook_edits import hparams_for, requests_for

    draw = random.Random(0)
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n\n".join(" ".join(draw.choices(WORDS, k=40)) for _ in range(50)))
    hparams = hparams_for(
        "llama", mom2_dataset=str(corpus), mom2_n_samples=50, stats_dir=str(tmp_path / "stats"), batch_size=1
    )

    class Impatient:
        def edited(self, done: int, scores: Mapping[str, float]) -> None:
            if done == 2:
                raise KeyboardInterrupt

    def run(**options: Any) -> Any:
        return run_consecutive(
            build_model("llama"), tokenizer, requests_for(), hparams, retention=RETENTION, eval_every=1, **options
        )

    whole = run(out=tmp_path / "whole")
    assert [entry["status"] for entry in whole.journal] == ["edited"] * 4
    with pytest.raises(KeyboardInterrupt):
        run(out=tmp_path / "run", progress=Impatient())
    resumed = run(out=tmp_path / "run", resume=True)
    assert resumed.metrics == whole.metrics
    assert _timeless(resumed.curve) == _timeless(whole.curve)
    inputs = tokenizer(requests_for()[0].prompt, return_tensors="pt")
    said = whole.edited_model(**inputs).logits
    assert torch.equal(resumed.edited_model(**inputs).logits, said)
    assert not torch.equal(build_model("llama")(**inputs).logits, said)
