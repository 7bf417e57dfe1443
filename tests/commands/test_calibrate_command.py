"""``calibrate``: its files, a hyperparameter file that makes edits, resuming, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from easyedit_lifelong import GraceHyperParams, apply_grace_to_model
from easyedit_lifelong.commands import calibrate_session as calibrating
from easyedit_lifelong.commands.calibrate_files import hparams_text
from easyedit_lifelong.commands.main import build_parser, main
from easyedit_lifelong.errors import EditError, HyperParameterError, RunError
from easyedit_lifelong.methods.grace.calibration import study
from easyedit_lifelong.methods.grace.calibration.calibrator import GraceCalibrator
from tests.support.calibration_records import facts, write_inputs
from tests.support.command_line import forbid_loading
from tests.support.tiny_models import build_model, build_tokenizer

FILES = ["calibrated.yaml", "calibration.json", "calibration.md", "calibration.png", "calibration.svg"]


@pytest.fixture
def command(tmp_path: Path, checkpoint: Path) -> list[str]:
    return write_inputs(tmp_path, str(checkpoint))


def error_of(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(command) == 1
    return capsys.readouterr().err


def test_calibrate_writes_its_results_and_a_hyperparameter_file(
    command: list[str], tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--false-fire-rate", "0.2"]) == 0
    output, out = capsys.readouterr().out, tmp_path / "out"
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == FILES
    for part in ("cos, whitened", "1.mlp.gate_proj", "AUC", "relation specificity", "4 edits that answer at", "←"):
        assert part in output
    result = json.loads((out / "calibration.json").read_text())
    assert (result["counts"]["records"], result["asked"]["false_fire_rate"]) == (10, 0.2)
    assert [trial["layer"] for trial in result["steps"]["trials"]] != []
    tables = (out / "calibration.md").read_text()
    assert all(f"found at {rate}" in tables for rate in ("0.5%", "1.0%", "2.0%", "5.0%", "20.0%"))
    assert (out / "calibration.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"

    text = (out / "calibrated.yaml").read_text()
    assert f"# easyedit-lifelong calibrate --hparams {tmp_path / 'subject.yaml'} --data " in text
    assert "--false-fire-rate 0.2" in text
    given, written = yaml.safe_load((tmp_path / "subject.yaml").read_text()), yaml.safe_load(text)
    assert {name: written[name] for name in result["picked"]} == result["picked"]
    picked = set(result["picked"])
    assert picked == {
        "query_token",
        "inner_params",
        "dist_fn",
        "whiten",
        "eps",
        "false_fire_rate",
        "answer_layer",
        "gate_eps",
    }
    assert {n: v for n, v in written.items() if n not in picked} == {n: v for n, v in given.items() if n not in picked}


def test_a_calibration_that_another_process_has_made_meanwhile_is_kept(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def calibrate_first(hparams: Any) -> Any:
        monkeypatch.undo()
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "calibration.json").write_text("{}")
        return calibrating.load_model_for(hparams)

    monkeypatch.setattr(calibrating, "load_model_for", calibrate_first)
    assert "holds another calibration" in error_of(command, capsys)
    assert (tmp_path / "out" / "calibration.json").read_text() == "{}"


def test_the_calibrated_file_makes_edits_that_can_be_rolled_back(command: list[str], tmp_path: Path) -> None:
    assert main(command) == 0
    hparams = GraceHyperParams.from_hparams(tmp_path / "out" / "calibrated.yaml")
    model, tokenizer = build_model("llama"), build_tokenizer()
    ids = tokenizer("the capital of France is", return_tensors="pt").input_ids
    before = model(ids).logits
    edited, rollback = apply_grace_to_model(model, tokenizer, facts()[:2], hparams)
    assert not torch.equal(edited(ids).logits, before)
    assert rollback.results[1].detail["n_keys"] == 2
    rollback()
    assert torch.equal(model(ids).logits, before)


def test_a_resumed_calibration_repeats_no_finished_step(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other settings, other data and damaged results are refused; a finished calibration is only written again."""
    original, calls = study.try_edits, []

    def fail_at_second_call(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise EditError("the trial failed")
        return original(*arguments)

    monkeypatch.setattr(study, "try_edits", fail_at_second_call)
    assert "the trial failed" in error_of(command, capsys)
    out = tmp_path / "out"
    assert not (out / "calibrated.yaml").exists()
    assert "--resume continues it" in error_of(command, capsys)
    err = error_of([*command, "--resume", "--edits", "3", "--generality", "0.8"], capsys)
    assert "edits was 4, is 3" in err and "generality was 0.9, is 0.8" in err and "changed" not in err
    with monkeypatch.context() as patch:
        patch.setattr(calibrating, "model_fingerprint", lambda model: "another")
        err = error_of([*command, "--resume"], capsys)
    assert "the model's weights changed" in err and "format file" not in err
    (tmp_path / "facts.json").write_text(json.dumps(facts()[:9]))
    assert "the data or their format file changed" in error_of([*command, "--resume"], capsys)
    (tmp_path / "facts.json").write_text(json.dumps(facts()))

    def repeat(*_: Any) -> Any:
        raise AssertionError("a finished step was repeated")

    monkeypatch.setattr(study, "study_key_layers", repeat)
    monkeypatch.setattr(study, "study_gates", repeat)
    assert main([*command, "--resume"]) == 0
    assert len(calls) == 3, "more than the second trial was made again"
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == FILES
    written = (out / "calibration.json").read_text()
    (tmp_path / "facts.json").rename(tmp_path / "moved.json")
    moved = [word.replace("facts.json", "moved.json") for word in command]
    assert moved != command
    assert main([*moved, "--resume"]) == 0, "the digest of the records is compared, not the path"
    (tmp_path / "moved.json").rename(tmp_path / "facts.json")
    assert main([*command, "--resume"]) == 0, "a finished calibration doesn't write its files again"
    assert len(calls) == 3
    old, new = json.loads(written), json.loads((out / "calibration.json").read_text())
    assert {**old, "finished": ""} == {**new, "finished": ""}
    (out / "calibration.json").write_text(json.dumps({**new, "schema_version": 99}))
    assert "another version of this package (schema_version 99" in error_of([*command, "--resume"], capsys)
    (out / "calibration.json").write_text(json.dumps({**new, "steps": {"findings": [{}]}}))
    assert "is damaged, or not a calibration's" in error_of([*command, "--resume"], capsys)
    (out / "calibration.json").write_text("{")
    assert "is damaged, or not a calibration's" in error_of([*command, "--resume"], capsys)


def test_too_few_usable_records_are_refused_with_the_missing_field(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = facts()
    for fact in records[:4]:
        del fact["rephrase_prompt"]
    err = error_of(write_inputs(tmp_path, str(checkpoint), records), capsys)
    assert "6 of 10 records can be used; a calibration needs 8" in err
    assert "4 without rephrase_prompt" in err


def test_unusable_layer_options_are_refused_and_nothing_is_written(
    command: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "has no block 12; it has 0 to 3" in error_of([*command, "--layers", "1,12"], capsys)
    assert "isn't a list of blocks" in error_of([*command, "--layers", "one two"], capsys)
    assert "--answer-layers" in error_of([*command, "--answer-layers", "1"], capsys)
    assert not list((tmp_path / "out").glob("calib*"))


def test_mistakes_are_refused_before_the_model_loads(
    command: list[str], tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_loading(monkeypatch, calibrating)

    def calibrate(hparams: str, *more: str) -> None:
        # A later option overrides an earlier one.
        arguments = build_parser().parse_args([*command, "--hparams", hparams, *more])
        arguments.run(arguments)

    with pytest.raises(HyperParameterError, match="is for FT-L; calibrate is for GRACE by subjects") as caught:
        calibrate("FT-L/smollm2-135m")
    assert "Begin with GRACE/smollm2-135m-subject, or a copy of it, and --model." in str(caught.value)
    good = str(tmp_path / "subject.yaml")
    with pytest.raises(HyperParameterError, match="--false-fire-rate 1"):
        calibrate(good, "--false-fire-rate", "1")
    with pytest.raises(HyperParameterError, match="--max-trials: is for a staged search; GRACE"):
        calibrate(good, "--max-trials", "9")
    with pytest.raises(RunError, match="holds no calibration to resume"):
        calibrate(good, "--resume")
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="is a file"):
        calibrate(good, "--out", str(tmp_path / "file"))


@pytest.mark.parametrize("share", ["0", "1.5", "much"])
def test_a_share_must_be_a_number_above_0_and_at_most_1(
    share: str, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*command, "--generality", share])
    assert "--generality" in capsys.readouterr().err


@pytest.mark.parametrize("gate", [0.4, None])
def test_the_hyperparameter_file_keeps_given_values_and_marks_calibrated_ones(gate: float | None) -> None:
    given = {"alg_name": "GRACE", "inner_params": ["old"], "key_templates": ["Well: {prompt} # really"], "seed": 3}
    chosen = {"inner_params": ["h.1.c_fc.weight"], "eps": 0.1, "gate_eps": gate}
    text = hparams_text(given, chosen, GraceCalibrator.comments, "First line\nsecond line")
    assert yaml.safe_load(text) == {**given, **chosen}
    assert text.startswith("# First line\n# second line\nalg_name: GRACE\n")
    assert "gate_eps: " + ("null" if gate is None else "0.4") + " # calibrated" in text
