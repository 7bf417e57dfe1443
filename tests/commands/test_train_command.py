"""``train``: the command trains, says how the training went, and its result edits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from easyedit_lifelong.commands import train as training
from easyedit_lifelong.commands.main import main
from tests.support.command_line import call, forbid_loading
from tests.support.training_records import training_records

HPARAMS: dict[str, Any] = {
    "alg_name": "MEND",
    "inner_params": ["model.layers.3.mlp.down_proj"],
    "device": "cpu",
    "rank": 2,
    "accumulate_bs": 2,
    "val_interval": 2,
    "log_interval": 2,
}


@pytest.fixture
def inputs(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of the command, with a hyperparameter file and records in the current folder."""
    monkeypatch.chdir(tmp_path)
    hparams = {**HPARAMS, "model_name": str(checkpoint), "archive": "trained"}
    (tmp_path / "mend.yaml").write_text(yaml.safe_dump(hparams))
    (tmp_path / "records.json").write_text(json.dumps(training_records(4)))
    return ["train", "--method", "MEND", "--hparams", "mend.yaml", "--data", "records.json", "--edits", "2"]


def test_a_trained_method_edits_from_the_same_file(
    inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit = ["edit", "--hparams", "mend.yaml", "--prompt", "king", "--target", "sea", "--out", "edits"]
    code, _, error = call(capsys, *edit)
    assert code == 1
    assert "mend.yaml, archive: trained is not a folder with a trained MEND. Train one: easyedit-" in error
    code, output, error = call(capsys, *inputs)
    assert code == 0, error
    assert "Training MEND for " in output
    assert "2 edits, validation: loss " in output
    assert "Ended after 2 training edits: all training edits are done." in output
    assert "trained/ has the MEND of edit 2" in output
    assert main(edit) == 0
    assert (tmp_path / "edits" / "edits.json").is_file()
    code, output, error = call(capsys, *inputs[:-1], "4", "--resume")
    assert code == 0, error
    assert "Ended after 4 training edits" in output


def test_unusable_records_stop_the_command_or_are_left_out(
    inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    first, *others = training_records(4)
    (tmp_path / "records.json").write_text(json.dumps([first, {"prompt": "no target"}, *others]))
    code, _, error = call(capsys, *inputs)
    assert code == 1
    assert "record 1, field 'target_new': is missing." in error
    assert not (tmp_path / "trained").exists()
    code, output, error = call(capsys, *inputs, "--skip-unusable", "--offset", "1", "--limit", "2")
    assert code == 0, error
    assert " on 2 records" in output
    assert "record 1, field 'target_new': is missing." in caplog.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resume"], "trained: holds no training to resume"),
        (["--method", "GRACE"], "--method GRACE: mend.yaml is for 'MEND'"),
        (
            ["--hparams", "GRACE/smollm2-135m", "--method", "GRACE"],
            "GRACE: is not trained. Methods that are: MEND, KE, ENN",
        ),
        (["--method", "MENDD"], "no editing method is called 'MENDD'. Did you mean 'MEND'?"),
        (["--data", "no.json"], "no.json: no such data file"),
        (["--offset", "9"], "at least two records; there are 0"),
    ],
)
def test_wrong_input_is_refused_before_the_model_is_loaded(
    inputs: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    forbid_loading(monkeypatch, training)
    code, _, error = call(capsys, *inputs, *words)
    assert code == 1
    assert message in error
