"""``rescore``: the scores equal the run's, further data and metrics, a part of the edits, and what it refuses."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import easyedit_lifelong.runs.rescore as rescoring_module
from easyedit_lifelong.commands import rescore
from easyedit_lifelong.evaluation.scorer import Scorer
from tests.support.command_line import FACTS, RunCommand, call, forbid_loading


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _rescored(cli: RunCommand, *words: Any) -> dict[str, Any]:
    """Return the summary of a rescoring of the run."""
    code, out, err = call(cli.capsys, "rescore", cli.out, *words)
    assert code == 0, out + err
    return json.loads((cli.out / "rescored" / "summary.json").read_text())


def _error(cli: RunCommand, *words: Any) -> str:
    """Return the message of a rescoring that must fail, before anything is written."""
    code, out, err = call(cli.capsys, "rescore", *words)
    assert code == 1, out + err
    assert "Traceback" not in out + err
    assert not (cli.out / "rescored").exists()
    return err


def test_a_rescoring_gives_the_scores_of_the_run(lifelong_cli: RunCommand) -> None:
    code, _, err = lifelong_cli.run("--capability")
    assert code == 0, err
    summary, rescored = lifelong_cli.summary(), _rescored(lifelong_cli)
    for key in ("metrics", "intervals", "capability_by_subject", "n_edits", "hparams", "requests_sha256"):
        assert rescored[key] == summary[key], key
    folder = lifelong_cli.out / "rescored"
    for name in ("generations.jsonl", "journal.jsonl"):
        assert _lines(folder / name) == _lines(lifelong_cli.out / name)
    code, _, err = call(lifelong_cli.capsys, "report", folder)
    assert code == 0, err


def test_the_parts_of_the_time_add_up(lifelong_cli: RunCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    """The unedited model's scores are a large part of the time, and count as scoring."""
    lifelong_cli.run()
    make_scoreboard = rescoring_module.make_scoreboard

    def slow(*args: Any, **options: Any) -> Any:
        time.sleep(1.0)
        return make_scoreboard(*args, **options)

    monkeypatch.setattr(rescoring_module, "make_scoreboard", slow)
    timing = _rescored(lifelong_cli)["timing"]
    assert timing["seconds_scoring"] >= 1.0
    parts = ("editing", "scoring", "preparing", "io")
    rest = timing["seconds_total"] - sum(timing[f"seconds_{part}"] for part in parts)
    assert abs(rest) < 0.5, timing


def test_a_metric_that_cannot_be_computed_is_reported(
    lifelong_cli: RunCommand, caplog: pytest.LogCaptureFixture
) -> None:
    lifelong_cli.run()
    assert list(_rescored(lifelong_cli, "--metrics", "locality,capability")["metrics"]) == ["locality"]
    assert "metrics: capability: the data and the options have nothing to compute this from" in caplog.messages


def test_skipped_requests_count_as_in_the_run(lifelong_cli: RunCommand) -> None:
    lifelong_cli.write(facts=[*FACTS, {**FACTS[0], "case_id": "again"}])
    code, _, err = lifelong_cli.run("--only-errors")
    assert code == 0, err
    summary = lifelong_cli.summary()
    assert summary["n_skipped"] == 1
    assert _rescored(lifelong_cli)["metrics"] == summary["metrics"]


def test_the_first_edits_have_the_scores_that_the_run_had_then(consecutive_cli: RunCommand) -> None:
    code, _, err = consecutive_cli.run("--bsz", 2, "--eval-at", "2,3")
    assert code == 0, err
    then = _lines(consecutive_cli.out / "metrics.jsonl")[0]
    assert then["n_edits"] == 2
    rescored = _rescored(consecutive_cli, "--edits", 2)
    assert rescored["n_edits"] == 2
    for name in ("ES", "ERR", "generality", "locality", "TRR", "n_keys"):
        assert rescored["metrics"][name] == then[name], name


def test_edits_must_end_a_batch(consecutive_cli: RunCommand) -> None:
    consecutive_cli.run("--bsz", 2)
    assert "edits: 1 edit ends within a batch of this run; use 2 or 3" in _error(
        consecutive_cli, consecutive_cli.out, "--edits", 1
    )
    assert "edits: 4, but the run in" in _error(consecutive_cli, consecutive_cli.out, "--edits", 4)


def test_only_the_named_metrics_are_reported_and_nothing_is_generated_for_them(
    lifelong_cli: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    lifelong_cli.run()

    def generate(*_: Any, **__: Any) -> Any:
        raise AssertionError("answers were generated")

    monkeypatch.setattr(Scorer, "generate", generate)
    metrics = _rescored(lifelong_cli, "--metrics", "locality,generality")["metrics"]
    assert set(metrics) == {"locality", "generality", "generality_before"}
    assert all(metrics[name] == lifelong_cli.summary()["metrics"][name] for name in metrics)


def test_other_data_ask_further_questions_about_the_edits(lifelong_cli: RunCommand, tmp_path: Path) -> None:
    lifelong_cli.run()
    other = tmp_path / "further.json"
    further = {
        "prompt": FACTS[1]["prompt"],
        "target_new": FACTS[1]["target_new"],
        "portability": {"authors": {"prompt": "the king wrote", "ground_truth": "snow"}},
    }
    other.write_text(json.dumps([further, {"prompt": "what else", "target_new": "nothing"}]))
    rescored = _rescored(lifelong_cli, "--data", other)
    assert (rescored["n_requests"], rescored["n_edits"], rescored["data"]) == (1, 3, str(other))
    (scoring,) = _lines(lifelong_cli.out / "rescored" / "metrics.jsonl")
    assert scoring["sampled"] == 1, "the scores are averages over one of three edits"
    timing = rescored["timing"]
    assert timing["seconds_per_edit"] == pytest.approx(timing["seconds_editing"] / 3)
    assert "portability" in rescored["metrics"]
    assert "portability" not in lifelong_cli.summary()["metrics"]
    other.write_text(json.dumps([{"prompt": "what else", "target_new": "nothing"}]))
    code, _, err = call(lifelong_cli.capsys, "rescore", lifelong_cli.out, "--data", other, "--out", tmp_path / "b")
    assert code == 1
    assert "none of its records (1) has the prompt and the target of an edit of this run" in err


def test_what_cannot_be_rescored_is_refused_before_the_model_is_loaded(
    consecutive_cli: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    consecutive_cli.run("--consecutive", 0)
    forbid_loading(monkeypatch, rescore)
    assert "a single-round run rolls its edits back" in _error(consecutive_cli, consecutive_cli.out)
    assert "holds no run" in _error(consecutive_cli, tmp_path / "nothing")
    message = _error(consecutive_cli, consecutive_cli.out, "--metrics", "localty")
    assert "there is no metric 'localty'. Did you mean 'locality'? Known (docs/metrics.md): ES, ERR, TRR," in message
    assert ", generality, locality, " in message and "_before" not in message


def test_changed_data_are_refused(lifelong_cli: RunCommand) -> None:
    lifelong_cli.run()
    lifelong_cli.write(facts=FACTS[:2])
    assert "aren't the data that the experiment was made with" in _error(lifelong_cli, lifelong_cli.out)


def test_a_journal_of_other_data_is_refused(lifelong_cli: RunCommand) -> None:
    lifelong_cli.run()
    journal = lifelong_cli.out / "journal.jsonl"
    journal.write_text(journal.read_text().replace("who wrote Hamlet", "who wrote"))
    assert "line 2: belongs to no record" in _error(lifelong_cli, lifelong_cli.out)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("{")], ids=["missing", "damaged"])
def test_the_results_of_an_interrupted_rescoring_are_replaced(
    lifelong_cli: RunCommand, damage: Callable[[Path], object]
) -> None:
    assert lifelong_cli.run()[0] == 0
    expected = _rescored(lifelong_cli)
    folder = lifelong_cli.out / "rescored"
    code, _, err = call(lifelong_cli.capsys, "rescore", lifelong_cli.out)
    assert code == 1
    assert "holds another run" in err
    damage(folder / "summary.json")
    again = _rescored(lifelong_cli)
    assert again["metrics"] == expected["metrics"]
    assert len(_lines(folder / "journal.jsonl")) == len(_lines(lifelong_cli.out / "journal.jsonl"))
    assert len(_lines(folder / "metrics.jsonl")) == 1
