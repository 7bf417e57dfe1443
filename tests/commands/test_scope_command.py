"""``scope``: its files, its output, and what it refuses."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
import yaml

from easyedit_lifelong.commands import scope as scoping
from easyedit_lifelong.commands.main import main
from easyedit_lifelong.commands.scope import write_scope
from tests.support.coachhook_edits import hparams_for
from tests.support.command_line import call, forbid_loading
from tests.support.corpus import write_corpus
from tests.support.scope_rows import SCOPE


def test_scope_files_hold_every_z_score(tmp_path: Path) -> None:
    write_scope(SCOPE, tmp_path / "deep" / "out", {"model": "m"})
    out = tmp_path / "deep" / "out"
    result = json.loads((out / "scope.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} isn't JSON"))
    assert (result["module"], result["alpha"], result["model"]) == (SCOPE.module, 1.5, "m")
    assert result["figures"]["prompt"]["n"] == 3
    assert result["rows"][2]["z"] == [None]
    with (out / "scope.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(row.z) for row in SCOPE.rows)
    assert rows[0] == {
        "case_id": "0",
        "kind": "prompt",
        "position": "0",
        "token": "t0",
        "from_subject": "-1",
        "z": "0.0",
    }
    assert [row["from_subject"] for row in rows if row["kind"] == "paraphrase"] == ["", "", "0", "1", "2"]
    assert [row["z"] for row in rows][6] == ""


FACTS = [
    {
        "prompt": "the capital of France is",
        "target_new": "Rome",
        "subject": "France",
        "rephrase_prompt": "spoken in France and Peru",
    },
    {"prompt": "who wrote Hamlet when", "target_new": "king", "subject": "Hamlet", "rephrase_prompt": "the old song"},
    {"prompt": "blue sea and mountain", "target_new": "snow", "subject": "blue sea"},
]


@pytest.fixture
def command(tmp_path: Path, checkpoint: Path) -> list[str]:
    """The command for a tiny model, with second moments of a small corpus."""
    corpus = write_corpus(tmp_path, documents=50) / "corpus.txt"
    hparams = hparams_for("llama", mom2_dataset=str(corpus), mom2_n_samples=50, stats_dir=str(tmp_path / "stats"))
    values = {name: value for name, value in hparams.to_dict().items() if value is not None}
    (tmp_path / "hook.yaml").write_text(yaml.safe_dump({**values, "model_name": str(checkpoint), "device": "cpu"}))
    (tmp_path / "facts.json").write_text(json.dumps(FACTS))
    return [
        "scope",
        "--hparams",
        str(tmp_path / "hook.yaml"),
        "--ds_dir",
        str(tmp_path / "facts.json"),
        "--out",
        str(tmp_path / "out"),
    ]


def test_scope_writes_its_files_and_refuses_a_folder_with_a_study(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--bsz", "2", "--sample", "3"]) == 0
    out = capsys.readouterr().out
    assert "3 edits" in out
    assert "alpha" in out
    result = json.loads((tmp_path / "out" / "scope.json").read_text())
    assert (result["n_edits"], len(result["rows"]), result["hparams"]["batch_size"]) == (3, 5, 2)
    assert result["figures"]["prompt"]["n_subject"] == 3
    assert result["figures"]["paraphrase"]["n_subject"] == 1, "the paraphrase without its subject was counted"
    assert all(math.isfinite(z) for row in result["rows"] for z in row["z"])
    assert (tmp_path / "out" / "scope.svg").is_file() and (tmp_path / "out" / "scope.csv").is_file()
    assert main([*command, "--bsz", "2"]) == 1
    assert "holds another study" in capsys.readouterr().err


def test_a_record_without_its_subject_is_refused_or_skipped(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {"prompt": "old river", "target_new": "song", "subject": "Berlin"}
    (tmp_path / "facts.json").write_text(json.dumps([*FACTS, bad]))
    assert main(command) == 1
    assert "record 3 (case 3), field 'subject'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*command, "--skip_unusable"]) == 0
    result = json.loads((tmp_path / "out" / "scope.json").read_text())
    assert [left_out["case_id"] for left_out in result["skipped"]] == [3]


def test_mistakes_are_refused_before_the_model_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forbid_loading(monkeypatch, scoping)
    (tmp_path / "file").touch()
    for words, expected in (
        (["--hparams", "GRACE/smollm2-135m", "--out", tmp_path / "out"], "GRACE offers no scope study"),
        (["--wohk", "1", "--out", tmp_path / "out"], "there is no scope to study"),
        (["--out", tmp_path / "file"], "is a file"),
    ):
        code, _, err = call(capsys, "scope", *words)
        assert code == 1
        assert expected in err
