"""``consecutive``: its output and files, the experiment that its options give, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from easyedit_lifelong.commands import consecutive
from easyedit_lifelong.commands import run_session as session
from easyedit_lifelong.data.guess_format import guess_format
from easyedit_lifelong.data.samples import COUNTERFACT, ZSRE
from easyedit_lifelong.runs.experiment import Data, Experiment
from easyedit_lifelong.runs.schedule import Schedule
from tests.support.command_line import FACTS, HPARAMS, RunCommand, call, forbid_loading


def test_a_files_format_is_guessed_from_its_content_or_name(tmp_path: Path) -> None:
    assert guess_format(COUNTERFACT) == "counterfact"
    assert guess_format(ZSRE) == "zsre"
    for name, content, expected in (
        ("facts.json", json.dumps(FACTS), "json"),
        ("my-counterfact.json", json.dumps(FACTS[1:]), "json"),
        ("odd.json", ZSRE.read_text(), "zsre"),
        ("counterfact-edit.json", "[", "counterfact"),
        ("zsre_mend_eval.json", "", "zsre"),
        ("zsre.jsonl", json.dumps(FACTS[0]), "json"),
        ("what.json", "5", "json"),
        ("rephrased.jsonl", '{"input": "p", "output": []}', "zsre-rephrased"),
        (
            "hallucination-edit.json",
            json.dumps([{"prompt": "p", "target_new": "t", "locality_prompt": "l"}]),
            "hallucination",
        ),
    ):
        path = tmp_path / name
        path.write_text(content)
        assert guess_format(path) == expected, name
    assert guess_format(tmp_path / "gone-zsre.json") == "zsre"
    assert guess_format("hub:somebody/counterfact:train") == "counterfact"


@pytest.mark.parametrize("protocol", [1, 0])
def test_a_run_writes_its_summary_and_prints_its_scores(consecutive_cli: RunCommand, protocol: int) -> None:
    code, out, err = consecutive_cli.run("--bsz", 2, "--consecutive", protocol, "--eval-every", 1, "--track", "csv")
    assert code == 0, err
    summary = consecutive_cli.summary()
    assert summary["protocol"] == ("consecutive" if protocol else "single-round")
    assert (summary["n_edits"], summary["batch_size"], summary["n_batches"], summary["eval_every"]) == (3, 2, 2, 1)
    assert (summary["method"], summary["data"]) == ("GRACE", str(consecutive_cli.data))
    for word in (
        "ES",
        "reliability",
        "locality",
        "batches of 2",
        summary["protocol"],
        "3/3 edits",
        "s an edit (mean); 0 failed",
    ):
        assert word in " ".join(out.split())
    assert (consecutive_cli.out / "metrics.csv").exists()


@pytest.mark.parametrize("option", ["--edits", "--sample", "--limit"])
def test_the_number_of_records_can_be_limited(consecutive_cli: RunCommand, option: str) -> None:
    assert consecutive_cli.run(option, 2)[0] == 0
    assert consecutive_cli.summary()["n_requests"] == 2


def test_an_offset_is_recorded_and_checked_when_the_run_is_resumed(consecutive_cli: RunCommand) -> None:
    assert consecutive_cli.run("--edits", 2, "--offset", 1)[0] == 0
    assert yaml.safe_load((consecutive_cli.out / "config.yaml").read_text())["data"]["offset"] == 1
    lines = (consecutive_cli.out / "journal.jsonl").read_text().splitlines()
    assert [json.loads(line)["case_id"] for line in lines] == [1, 2]
    assert consecutive_cli.run("--edits", 2, "--offset", 1, "--resume")[0] == 0
    code, _, err = consecutive_cli.run("--edits", 2, "--resume")
    assert code == 1 and "can't be resumed with other settings: recorded.requests_sha256 was" in err
    message = consecutive_cli.error_of("--offset", 3, out=consecutive_cli.folder / "other")
    assert message == f"--offset: 3 records to skip, but {consecutive_cli.data} has only 3"


def test_shuffled_records_are_the_same_when_the_run_is_resumed_or_repeated(consecutive_cli: RunCommand) -> None:
    assert consecutive_cli.run("--edits", 2, "--shuffle")[0] == 0
    assert yaml.safe_load((consecutive_cli.out / "config.yaml").read_text())["data"]["shuffle"] is True
    assert consecutive_cli.run("--edits", 2, "--shuffle", "--resume")[0] == 0
    code, _, err = consecutive_cli.run("--edits", 2, "--resume")
    assert code == 1 and "can't be resumed with other settings: recorded.requests_sha256 was" in err


def test_the_default_folder_is_named_after_method_model_and_data(
    consecutive_cli: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert consecutive_cli.run(out=None)[0] == 0
    assert (tmp_path / "runs" / "consecutive" / "GRACE-tiny-llama-facts" / "summary.json").is_file()


def test_skipped_records_are_listed(consecutive_cli: RunCommand) -> None:
    consecutive_cli.data.write_text(json.dumps([*FACTS, {"prompt": " ".join(["sea"] * 64), "target_new": "blue"}]))
    assert "context is 64" in consecutive_cli.error_of()
    code, out, _ = consecutive_cli.run("--skip-unusable")
    assert code == 0
    assert "1 skipped" in out
    assert "left out: " in out
    assert consecutive_cli.summary()["skipped"][0]["case_id"] == 3


def test_a_folder_with_a_run_is_refused_before_the_model_loads(consecutive_cli: RunCommand) -> None:
    assert consecutive_cli.run()[0] == 0
    code, _, err = consecutive_cli.run(model="/missing/there")
    assert code == 1
    assert "holds another run" in err, "the folder isn't checked before the model loads"
    assert "--resume continues it" in err


def test_a_resumed_run_gives_the_metrics_of_an_uninterrupted_one(consecutive_cli: RunCommand) -> None:
    """A single-round run has no state: each of its batches starts from the unedited model."""
    assert consecutive_cli.run("--consecutive", 0, "--bsz", 2)[0] == 0
    uninterrupted = consecutive_cli.summary()
    (consecutive_cli.out / "summary.json").unlink()
    journal = consecutive_cli.out / "journal.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:2]))
    code, _, err = consecutive_cli.run("--consecutive", 0, "--bsz", 2, "--resume")
    assert code == 0, err
    assert consecutive_cli.summary()["metrics"] == uninterrupted["metrics"]
    code, _, err = consecutive_cli.run("--consecutive", 0, "--bsz", 3, "--resume")
    assert code == 1
    assert "batch_size was 2, is 3" in err


def test_mistakes_are_refused_before_the_model_loads(
    consecutive_cli: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_loading(monkeypatch, session)
    missing = consecutive_cli.folder / "nothing.json"
    assert consecutive_cli.error_of(data=missing) == f"{missing}: no such data file"
    assert consecutive_cli.error_of(retention=missing) == f"{missing}: no such retention file"
    assert "no such hyperparameter file" in consecutive_cli.error_of(hparams="nothing")
    assert "Did you mean 'zsre'?" in consecutive_cli.error_of("--format", "zrse")
    assert "record 0, field 'src'" in consecutive_cli.error_of("--format", "zsre")
    assert "no tracker is called 'abacus'" in consecutive_cli.error_of("--track", "abacus")
    assert "--alpha_z: GRACE has no hyperparameter 'alpha_z'" in consecutive_cli.error_of("--alpha-z", 2)
    assert "--method CoachHook: " in consecutive_cli.error_of("--method", "CoachHook")
    assert (
        consecutive_cli.error_of(out=consecutive_cli.data)
        == f"{consecutive_cli.data}: is a file; --out must name a folder"
    )
    consecutive_cli.hparams.write_text(yaml.safe_dump({**HPARAMS, "alg_name": "ROMEO", "model_name": "m"}))
    assert "alg_name: EasyEdit has no method 'ROMEO'. Did you mean 'ROME'?" in consecutive_cli.error_of()


def test_resume_without_a_run_is_refused_before_the_model_loads(
    consecutive_cli: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_loading(monkeypatch, session)
    assert "holds no run to resume" in consecutive_cli.error_of("--resume", "--consecutive", 0)


def test_every_option_reaches_the_experiment(consecutive_cli: RunCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[tuple[Any, ...]] = []
    monkeypatch.setattr(consecutive, "run_and_report", lambda *given: received.append(given))
    code, _, err = consecutive_cli.run(
        "--bsz",
        4,
        "--device",
        "cpu",
        "--eval_every",
        6,
        "--sample",
        8,
        "--format",
        "json",
        "--skip_unusable",
        "--resume",
        "--track",
        "csv",
        "--method",
        "GRACE",
        "--consecutive",
        0,
        "--model",
        "m",
        "--eval-at",
        "9,3",
        "--eval-sample",
        5,
        "--edit-with",
        2,
        "--offset",
        7,
        "--shuffle",
        "--text",
        "t",
        "--task",
        "generation",
    )
    assert code == 0, err
    ((experiment, arguments),) = received
    hparams = experiment.hparams
    assert (hparams.alg_name, hparams.batch_size, hparams.device, hparams.model_name) == ("GRACE", 4, "cpu", "m")
    assert experiment == Experiment(
        "consecutive",
        hparams,
        Data(str(consecutive_cli.data), "json", 8, 2, offset=7, shuffle=True),
        retention=str(consecutive_cli.retention),
        text="t",
        task="generation",
        skip_unusable=True,
        protocol="single-round",
        schedule=Schedule(6, (3, 9), 5),
        trackers=["csv"],
    )
    assert (arguments.out, arguments.resume) == (consecutive_cli.out, True)


def test_without_options_the_experiment_has_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    received: list[tuple[Any, ...]] = []
    monkeypatch.setattr(consecutive, "run_and_report", lambda *given: received.append(given))
    assert call(capsys, "consecutive")[0] == 0
    ((experiment, arguments),) = received
    assert experiment == Experiment("consecutive", experiment.hparams, Data(str(COUNTERFACT), None, 100), trackers=[])
    assert (arguments.out, arguments.resume) == (Path("runs/consecutive/CoachHook-smollm2-135m-counterfact"), False)
