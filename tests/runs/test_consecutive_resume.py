"""Consecutive and single-round runs that are interrupted at any event, and resumed."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong import run_consecutive
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.plugins import get_plugins
from tests.support.ledger_method import (
    FACTS,
    RETENTION,
    TWELVE_FACTS,
    Killed,
    Ledger,
    Plugin,
    ledger_table,
    run_ledger,
)
from tests.support.progress import InterruptAfter
from tests.support.registry import replace_method
from tests.support.run_files import bytes_of_files, read_lines, without_times
from tests.support.table_model import TableModel
from tests.support.tiny_models import WORDS, build_model


def assert_same_run(resumed: Any, uninterrupted: Any) -> None:
    """Compare scores, journal, curve, files and summary of two runs, without the times."""
    assert resumed.metrics == uninterrupted.metrics
    assert without_times(resumed.journal) == without_times(uninterrupted.journal)
    assert without_times(resumed.curve) == without_times(uninterrupted.curve)
    assert without_times(read_lines(resumed.folder / "journal.jsonl")) == without_times(uninterrupted.journal)
    assert without_times(read_lines(resumed.folder / "metrics.jsonl")) == without_times(uninterrupted.curve)
    may_differ = ("timing", "memory", "finished", "data")
    resumed_summary, expected_summary = (
        {name: value for name, value in run.summary.items() if name not in may_differ}
        for run in (resumed, uninterrupted)
    )
    assert resumed_summary == expected_summary


def run_and_kill(ledger: Ledger, kill: tuple[str, int], out: Path, **options: Any) -> None:
    """Start a run, and kill it when an event happens for the given number of times."""
    ledger.kill = kill
    with pytest.raises(Killed):
        run_ledger(ledger_table(), TWELVE_FACTS, out=out, **options)
    ledger.kill = None


@pytest.mark.parametrize(
    ("kill", "consecutive"),
    [(("edit", n), protocol) for n in (1, 2, 3, 4, 7) for protocol in (True, False)]
    + [(("save", 1), True), (("save", 3), True), (("undo", 2), False)],
)
def test_a_killed_run_resumes_and_ends_like_an_uninterrupted_one(
    ledger: Ledger, tmp_path: Path, kill: tuple[str, int], consecutive: bool
) -> None:
    options: dict[str, Any] = {"eval_every": 2, "hparams": {"remembers": 3}, "consecutive": consecutive}
    uninterrupted = run_ledger(ledger_table(), TWELVE_FACTS, out=tmp_path / "uninterrupted", **options)
    run_and_kill(ledger, kill, tmp_path / "run", **options)
    done = len(read_lines(tmp_path / "run" / "journal.jsonl")) if (tmp_path / "run" / "journal.jsonl").exists() else 0
    ledger.events.clear()
    table = ledger_table()
    resumed = run_ledger(table, TWELVE_FACTS, out=tmp_path / "run", resume=True, trackers=["pad"], **options)
    assert_same_run(resumed, uninterrupted)
    assert not [event for event in ledger.events if event.startswith("edit ") and int(event[5:]) < done]
    received = [{"n_edits": step, **metrics} for step, metrics in ledger.notebook.received]
    assert without_times(received) == without_times(uninterrupted.curve), (
        "the tracker must receive all scorings, also those from before the kill"
    )


def run_until_killed(out: Path, event_name: str, count: int) -> None:
    """Run in this process, and kill it when an event happens for the ``count``-th time."""
    plugin, remaining = Plugin(), [count]
    get_plugins().remove("test-ledger")
    get_plugins().add(plugin, "test-ledger")

    def count_event(event: str) -> None:
        if event.split()[0] == event_name:
            remaining[0] -= 1
            if remaining[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    class JournalProgress:
        def edited(self, done: int, scores: Mapping[str, float]) -> None:
            count_event("journaled")

    plugin.ledger.record_event = count_event  # type: ignore[method-assign]
    run_ledger(ledger_table(), TWELVE_FACTS, out=out, eval_every=2, progress=JournalProgress())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
@pytest.mark.parametrize("kill", [("edit", 4), ("save", 3), ("journaled", 3)])
def test_a_run_resumes_after_sigkill(ledger: Ledger, tmp_path: Path, kill: tuple[str, int]) -> None:
    """The process is killed inside a batch, while its state is written, and between two batches."""
    child = multiprocessing.get_context("fork").Process(target=run_until_killed, args=(tmp_path / "run", *kill))
    child.start()
    child.join(timeout=300)
    assert child.exitcode == -signal.SIGKILL
    resumed = run_ledger(ledger_table(), TWELVE_FACTS, out=tmp_path / "run", eval_every=2, resume=True)
    assert_same_run(resumed, run_ledger(ledger_table(), TWELVE_FACTS, out=tmp_path / "uninterrupted", eval_every=2))


@pytest.mark.parametrize("torn_line", ['{"status": "edi', ""])
def test_a_torn_last_line_and_an_incomplete_batch_are_dropped_on_resume(
    ledger: Ledger, tmp_path: Path, torn_line: str
) -> None:
    """Only one line of the second batch was written, and the line after it stops in its middle or is missing."""
    uninterrupted = run_ledger(ledger_table(), TWELVE_FACTS, out=tmp_path / "uninterrupted")
    run_and_kill(ledger, ("edit", 5), tmp_path / "run")
    journal = tmp_path / "run" / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:3]) + torn_line)
    assert_same_run(run_ledger(ledger_table(), TWELVE_FACTS, out=tmp_path / "run", resume=True), uninterrupted)


def test_a_missing_scoring_is_repeated_without_new_edits(ledger: Ledger, tmp_path: Path) -> None:
    uninterrupted = run_ledger(ledger_table(), TWELVE_FACTS, out=tmp_path / "uninterrupted", eval_every=2)
    shutil.copytree(tmp_path / "uninterrupted", tmp_path / "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]) + '{"n_edits": 1')
    (tmp_path / "run" / "summary.json").unlink()
    ledger.events.clear()
    assert_same_run(
        run_ledger(ledger_table(), TWELVE_FACTS, out=tmp_path / "run", eval_every=2, resume=True),
        uninterrupted,
    )
    assert ledger.events == ["load"]


def test_resuming_a_finished_run_loads_its_edits_and_keeps_its_summary(ledger: Ledger, tmp_path: Path) -> None:
    finished = run_ledger(ledger_table(), TWELVE_FACTS, out=tmp_path / "run")
    summary = (tmp_path / "run" / "summary.json").read_bytes()
    ledger.events.clear()
    table = ledger_table()
    resumed = run_ledger(table, TWELVE_FACTS, out=tmp_path / "run", resume=True)
    assert ledger.events == ["load"]
    assert (tmp_path / "run" / "summary.json").read_bytes() == summary
    assert resumed.metrics == finished.metrics
    assert Scorer(table.tokenizer).forced(table, [("river sea", "blue snow")])[0].exact, (
        "the loaded model must give the edited answer"
    )


def test_the_times_of_a_resumed_run_include_earlier_edits(ledger: Ledger, tmp_path: Path) -> None:
    run_and_kill(ledger, ("edit", 5), tmp_path / "run")
    journal = tmp_path / "run" / "journal.jsonl"
    slow = [{**entry, "seconds": 100.0} for entry in read_lines(journal)]
    journal.write_text("".join(json.dumps(entry) + "\n" for entry in slow))
    timing = run_ledger(ledger_table(), TWELVE_FACTS, out=tmp_path / "run", resume=True).timing
    assert 400 < timing["seconds_editing"] < 401
    assert timing["seconds_total"] >= timing["seconds_editing"] + timing["seconds_scoring"]


def test_a_run_can_be_resumed_on_another_device(ledger: Ledger, tmp_path: Path) -> None:
    uninterrupted = run_ledger(ledger_table(), TWELVE_FACTS, out=tmp_path / "run", hparams={"device": "cuda:3"})
    resumed = run_ledger(ledger_table(), TWELVE_FACTS, out=tmp_path / "run", hparams={"device": "cpu"}, resume=True)
    assert resumed.metrics == uninterrupted.metrics


def test_an_interrupted_coachhook_run_resumes_to_the_same_model(tokenizer: Any, tmp_path: Path) -> None:
    """CoachHook takes second moments from a text of 50 paragraphs."""
    from tests.support.coachhook_edits import hparams_for, requests_for

    draw = random.Random(0)
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n\n".join(" ".join(draw.choices(WORDS, k=40)) for _ in range(50)))
    hparams = hparams_for(
        "llama", mom2_dataset=str(corpus), mom2_n_samples=50, stats_dir=str(tmp_path / "stats"), batch_size=1
    )

    def run(**options: Any) -> Any:
        return run_consecutive(
            build_model("llama"), tokenizer, requests_for(), hparams, retention=RETENTION, eval_every=1, **options
        )

    uninterrupted = run(out=tmp_path / "uninterrupted")
    assert [entry["status"] for entry in uninterrupted.journal] == ["edited"] * 4
    with pytest.raises(KeyboardInterrupt):
        run(out=tmp_path / "run", progress=InterruptAfter(2))
    resumed = run(out=tmp_path / "run", resume=True)
    assert resumed.metrics == uninterrupted.metrics
    assert without_times(resumed.curve) == without_times(uninterrupted.curve)
    inputs = tokenizer(requests_for()[0].prompt, return_tensors="pt")
    logits = uninterrupted.edited_model(**inputs).logits
    assert torch.equal(resumed.edited_model(**inputs).logits, logits)
    assert not torch.equal(build_model("llama")(**inputs).logits, logits)


# ------------------------------------------------------------------ refusals


def test_empty_lines_in_a_journal_are_refused(ledger: Ledger, tmp_path: Path) -> None:
    run_and_kill(ledger, ("edit", 5), tmp_path / "run")
    with (tmp_path / "run" / "journal.jsonl").open("a") as journal:
        journal.write("\n\n")
    with pytest.raises(RunError, match=r"line 5: is not JSON"):
        run_ledger(ledger_table(), TWELVE_FACTS, out=tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 3}, "batch_size was 2, is 3"),
        ({"hparams": {"remembers": 5}}, "hparams.remembers was 1000, is 5"),
        ({"consecutive": False}, "protocol was 'consecutive', is 'single-round'"),
        ({"eval_every": 7}, "schedule.every was 20, is 7"),
        ({"requests": TWELVE_FACTS[:3]}, "n_requests was 12, is 3"),
        ({"requests": [*TWELVE_FACTS[:11], FACTS[0] | {"case_id": 11}]}, "requests_sha256 was"),
        ({"retention": []}, "requests_sha256 was"),
        ({"table": TableModel()}, "weights was"),
    ],
)
def test_a_run_cannot_be_resumed_with_other_settings(
    ledger: Ledger, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    run_ledger(ledger_table(), TWELVE_FACTS, out=tmp_path / "run")
    before = bytes_of_files(tmp_path / "run")
    with pytest.raises(RunError, match="can't be resumed with other settings") as caught:
        run_ledger(
            **{
                "table": ledger_table(),
                "requests": TWELVE_FACTS,
                "out": tmp_path / "run",
                "resume": True,
                **options,
            }
        )
    assert message in str(caught.value)
    assert bytes_of_files(tmp_path / "run") == before


def test_resume_needs_the_folder_of_a_run(ledger: Ledger, table: TableModel, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run to resume"):
        run_ledger(table, out=tmp_path / "nothing", resume=True)
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(RunError, match="out="):
        run_ledger(table, resume=True)
    (tmp_path / "config.yaml").write_text("- 5")
    with pytest.raises(RunError, match=r"isn't the config\.yaml of a run"):
        run_ledger(table, out=tmp_path, resume=True)


def test_a_run_without_its_state_cannot_be_resumed(ledger: Ledger, tmp_path: Path) -> None:
    run_ledger(ledger_table(), TWELVE_FACTS, out=tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "state")
    with pytest.raises(RunError, match="the edits that the journal lists aren't there"):
        run_ledger(ledger_table(), TWELVE_FACTS, out=tmp_path / "run", resume=True)


def test_without_saved_edits_only_single_round_runs_can_be_resumed(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_method(monkeypatch, "LEDGER", state=None)
    run_and_kill(ledger, ("edit", 5), tmp_path / "run")
    with pytest.raises(RunError, match="LEDGER can't save its edits, so a consecutive run of it can't be resumed"):
        run_ledger(ledger_table(), TWELVE_FACTS, out=tmp_path / "run", resume=True)
    run_ledger(ledger_table(), TWELVE_FACTS, out=tmp_path / "single", consecutive=False)
    run_ledger(ledger_table(), TWELVE_FACTS, out=tmp_path / "single", consecutive=False, resume=True)
