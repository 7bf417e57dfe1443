"""``calibrate`` of methods that have a search space: its trials, files, resuming, and what it refuses."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from easyedit_lifelong import EditMethod, NeuralDBHyperParams, SearchSpace, get_plugins, hookimpl
from easyedit_lifelong.calibration.trial_edits import TrialEdits
from easyedit_lifelong.commands import calibrate_session
from easyedit_lifelong.commands.main import main
from easyedit_lifelong.methods.search_space import alternatives
from tests.conformance.method_cases import example_plugin
from tests.support.calibration_records import facts
from tests.support.command_line import forbid_loading

FILES = [
    *("calibrated.yaml", "calibration.json", "calibration.md", "calibration.png", "calibration.svg"),
    *("trials.csv", "trials.jsonl"),
]
VALUES: dict[str, Any] = {
    "alg_name": "NeuralDB",
    "device": "cpu",
    "layers": [3],
    "rewrite_module_tmp": "model.layers.{}.mlp.down_proj",
    "layer_module_tmp": "model.layers.{}",
    "gamma": 0.9,
    "clamp_norm_factor": 10,
    "v_weight_decay": 0.0,
    "v_num_grad_steps": 8,
    "batch_size": 2,
    "context_template_length_params": [],
}
"""Block 3 is the last one of the tiny model: what NeuralDB adds there, at the subject, reaches no later token."""


@pytest.fixture
def command(tmp_path: Path, checkpoint: Path) -> list[str]:
    (tmp_path / "neuraldb.yaml").write_text(yaml.safe_dump({**VALUES, "model_name": str(checkpoint)}))
    relation = [fact for fact in facts() if fact["prompt"].startswith("the capital")]  # the subject is not at the end
    records = [*facts()[1::2], *relation]
    (tmp_path / "facts.json").write_text(json.dumps([{**fact, "case_id": n} for n, fact in enumerate(records)]))
    hparams, data, out = (str(tmp_path / name) for name in ("neuraldb.yaml", "facts.json", "out"))
    return ["calibrate", "--hparams", hparams, "--data", data, "--edits", "4", "--layers", "1,3", "--out", out]


def error_of(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(command) == 1
    return capsys.readouterr().err


def trials_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]


def without_seconds(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in trial.items() if name != "seconds"} for trial in trials]


def test_the_search_finds_the_layer_that_is_not_worthless_and_writes_all_files(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 0
    output, out = capsys.readouterr().out, tmp_path / "out"
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == FILES
    for part in ("NeuralDB for ", "trial 1: the values to begin with …", "layers 1", "objective", "unedited", "←"):
        assert part in output
    trials = trials_in(out)
    assert (trials[0]["values"], trials[1]["values"]) == ({}, {"layers": [1]})
    assert trials[1]["scores"]["reliability"] > trials[0]["scores"]["reliability"]
    result = json.loads((out / "calibration.json").read_text())
    assert result["picked"]["layers"] == [1]
    assert result["steps"]["unedited"]["reliability"] == trials[0]["scores"]["reliability"]
    assert result["counts"] == {"given": 10, "records": 4, "trials": len(trials)}
    best = max(trials, key=lambda trial: trial["objective"])
    assert result["scores"]["objective"] == best["objective"]

    text = (out / "calibrated.yaml").read_text()
    assert "# easyedit-lifelong calibrate --hparams " in text and "--edits 4 --layers 1,3" in text
    assert "records 6 to 9, counted from 0 (all)" in text and f"{len(trials)} trials in " in text
    assert " s of at most 1800 s" in text and "layers: # calibrated" in text
    written = NeuralDBHyperParams.from_hparams(out / "calibrated.yaml")
    assert {name: getattr(written, name) for name in result["picked"]} == result["picked"]
    assert written.v_num_grad_steps == 8

    with (out / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["objective"] for row in rows] == [str(trial["objective"]) for trial in trials]
    assert [row["chosen"] for row in rows].count("1") == 1
    assert (out / "calibration.svg").read_text().startswith("<?xml") and "objective" in (
        out / "calibration.md"
    ).read_text()


def test_a_resumed_search_equals_an_uninterrupted_one_and_a_larger_budget_continues(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--max-trials", "5"]) == 0
    out, other = tmp_path / "out", tmp_path / "other"
    expected = trials_in(out)
    assert len(expected) == 5
    assert "The budget ended in the stage" in capsys.readouterr().out
    original, calls = TrialEdits.make, []

    def stop_at_third(self: TrialEdits, *arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, *arguments)

    command[command.index("--out") + 1] = str(other)
    monkeypatch.setattr(TrialEdits, "make", stop_at_third)
    assert main(command) == 130
    assert "the same command with --resume continues" in capsys.readouterr().err
    assert not (other / "calibrated.yaml").exists()
    assert len(trials_in(other)) == 2
    assert "--resume continues it" in error_of(command, capsys)
    assert main([*command, "--resume", "--max-trials", "5"]) == 0
    assert len(calls) == 6, "a finished trial was repeated"
    assert without_seconds(trials_in(other)) == without_seconds(expected)
    picked = [json.loads((folder / "calibration.json").read_text())["picked"] for folder in (out, other)]
    assert picked[0] == picked[1]
    assert main([*command, "--resume", "--max-trials", "6"]) == 0
    assert len(trials_in(other)) == 6 and without_seconds(trials_in(other)[:5]) == without_seconds(expected)
    err = error_of([*command, "--resume", "--edits", "3"], capsys)
    assert "can't be resumed with other settings" in err and "records was" in err


def test_a_budget_too_small_for_two_trials_is_refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    err = error_of([*command, "--max-trials", "1"], capsys)
    assert "has no room for two trials" in err and "--resume" in err


def test_mistakes_are_refused_before_the_model_loads(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forbid_loading(monkeypatch, calibrate_session)
    assert "10 of 10 records can be used, but each trial edits 11" in error_of([*command, "--edits", "11"], capsys)
    (tmp_path / "facts.json").write_text(json.dumps([{**fact, "locality_prompt": None} for fact in facts()]))
    no_locality = [{key: fact[key] for key in fact if not key.startswith("locality")} for fact in facts()]
    (tmp_path / "facts.json").write_text(json.dumps(no_locality))
    assert "10 without locality_prompt" in error_of(command, capsys)
    (tmp_path / "facts.json").write_text(json.dumps(facts()))
    assert "--answer-layers: is for GRACE by subjects" in error_of([*command, "--answer-layers", "2"], capsys)
    assert "isn't a list of layers" in error_of([*command, "--layers", "one"], capsys)
    assert "--method GRACE: " in error_of([*command, "--method", "grace"], capsys)
    without_hparams = [*command[:1], *command[3:]]
    assert "--method and --model" in error_of(without_hparams, capsys)
    assert "name the model with --model" in error_of([*without_hparams, "--method", "neuraldb"], capsys)
    assert "no editing method of that name" in error_of([*without_hparams, "--method", "NoSuch"], capsys)
    err = error_of([*without_hparams, "--method", "FT-L", "--model", "smollm2-135m"], capsys)
    assert "is for FT-L; calibrate is for GRACE by subjects" in err
    assert "NeuralDB" in err and "which have a search space" in err


def test_a_layer_that_the_model_does_not_have_is_refused(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "has no layer 9" in error_of([*command, "--layers", "1,9"], capsys)


def test_a_method_alone_begins_with_the_values_of_another_model(
    command: list[str], tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*command[:1], "--method", "ULTRAEDIT", "--model", str(checkpoint), *command[3:], "--max-trials", "2"]
    assert main(words) == 0
    written = yaml.safe_load((tmp_path / "out" / "calibrated.yaml").read_text())
    assert written["alg_name"] == "UltraEdit" and written["model_name"] == str(checkpoint)
    assert all(name.startswith("model.layers.") for name in written["inner_params"])
    assert len(written["inner_params"]) == 4, "as many modules as the model has blocks"
    assert main([*words, "--resume"]) == 0


def test_a_plugins_method_with_a_search_space_is_calibrated(
    command: list[str], tmp_path: Path, checkpoint: Path
) -> None:
    """A weak edit changes no answer, so the search finds a strength at which edits act."""
    weak = {"alg_name": "BiasEdit", "model_name": str(checkpoint), "device": "cpu", "strength": 0.001}
    (tmp_path / "neuraldb.yaml").write_text(yaml.safe_dump(weak))
    methods: list[EditMethod] = []
    example_plugin().register_methods(methods.append)
    space = SearchSpace(lambda hparams, blocks: [alternatives("strength", "strength", [0.01, 200.0])])

    class Plugin:
        @hookimpl
        def register_methods(self, register: Callable[[EditMethod], None]) -> None:
            register(dataclasses.replace(methods[0], search_space=space))

    plugins = get_plugins()
    plugins.add(Plugin(), "searched")
    try:
        assert main(command) == 0
    finally:
        plugins.remove("searched")
    assert yaml.safe_load((tmp_path / "out" / "calibrated.yaml").read_text())["strength"] == 200.0
    trials = trials_in(tmp_path / "out")
    assert [trial["values"] for trial in trials] == [{}, {"strength": 0.01}, {"strength": 200.0}]
    assert trials[2]["scores"]["reliability"] == 1
