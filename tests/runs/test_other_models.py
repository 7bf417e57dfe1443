"""Whole runs on models that aren't causal language models, from a checkpoint to the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong import load_model, run_lifelong
from easyedit_lifelong.commands.main import main
from easyedit_lifelong.errors import DataError, HyperParameterError
from tests.support.architectures import ARCHITECTURES, QUESTIONS, answer_to, texts


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders that hold the small trained models."""
    folders = {}
    for name in ("t5-encoder", "bert-first"):
        model, tokenizer = ARCHITECTURES[name].build()
        folders[name] = tmp_path_factory.mktemp(name) / "checkpoint"
        model.save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    return folders


def experiment(name: str, checkpoint: Path, folder: Path, records: list[Any], **more: Any) -> Path:
    place = ARCHITECTURES[name]
    (folder / "data.json").write_text(json.dumps(records), encoding="utf-8")
    hparams = {
        "alg_name": "GRACE",
        "model_name": str(checkpoint),
        "inner_params": [place.layer],
        "eps": place.eps,
        "query_token": place.query_token,
        "replacement": "replace_all",
    }
    file = folder / "experiment.yaml"
    file.write_text(json.dumps({"loop": "lifelong", "hparams": hparams, "schedule": {"at": [2, 4]}, **more}))
    return file


def summary_of(folder: Path) -> dict[str, float]:
    scores: dict[str, float] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["metrics"]
    return scores


def test_a_classifier_whose_labels_shift(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    requests = ARCHITECTURES["bert-first"].requests
    data = [{"text": request["prompt"], "label": request["target_new"]} for request in requests]
    right = [{"text": text, "label": label} for text, label in texts()[10:20]]
    (tmp_path / "right.json").write_text(json.dumps(right))
    file = experiment(
        "bert-first",
        checkpoints["bert-first"],
        tmp_path,
        [*data, *right[:1]],
        only_errors=True,
        data={"path": "data.json"},
        retention="right.json",
    )
    out = tmp_path / "run"
    assert main(["run", str(file), "--out", str(out)]) == 0
    scores = summary_of(out)
    assert scores["ES"] == scores["ERR"] == scores["ERR_acc"] == scores["TRR"] == scores["TRR_acc"] == 1.0
    assert scores["ERR_acc_before"] == 0.0
    assert scores["TRR_acc_before"] == 1.0
    assert not {"generation_match", "exact_match", "ERR_f1"} & set(scores), "a classifier says nothing"
    journal = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    assert [entry["status"] for entry in journal] == ["edited"] * 4 + ["skipped"]
    assert main(["report", str(out)]) == 0
    assert "reliability" in (out / "report" / "report.html").read_text(encoding="utf-8")


def test_an_encoder_decoder_that_answers_questions(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    data = [
        {
            **request,
            "rephrase_prompt": request["prompt"],
            "locality_prompt": question,
            "locality_ground_truth": answer_to(question),
        }
        for request, question in zip(ARCHITECTURES["t5-encoder"].requests, QUESTIONS[1:5], strict=True)
    ]
    held_out = [{"prompt": question, "answer": answer_to(question)} for question in QUESTIONS[18:]]
    (tmp_path / "held_out.json").write_text(json.dumps(held_out))
    file = experiment(
        "t5-encoder",
        checkpoints["t5-encoder"],
        tmp_path,
        data,
        data={"path": "data.json", "format": "json"},
        retention="held_out.json",
    )
    out = tmp_path / "run"
    assert main(["run", str(file), "--out", str(out)]) == 0
    scores = summary_of(out)
    for name in ("ES", "ERR", "generality", "locality", "generation_match", "exact_match", "ERR_f1", "TRR_f1", "TRR"):
        assert scores[name] == 1.0, name
    assert scores["exact_match_before"] == scores["reliability_before"] == 0.0
    said = [json.loads(line) for line in (out / "generations.jsonl").read_text().splitlines()]
    assert {one["prompt"]: one["after"] for one in said} == {one["prompt"]: one["target_new"] for one in data}
    assert {one["before"] for one in said} == {answer_to(one["prompt"]) for one in data}
    assert main(["report", str(out)]) == 0


def test_what_such_models_cannot_be_asked_is_refused(checkpoints: dict[str, Path]) -> None:
    place = ARCHITECTURES["bert-first"]
    model, tokenizer = load_model(checkpoints["bert-first"])
    with pytest.raises(HyperParameterError, match="classifier; it writes no text"):
        run_lifelong(model, tokenizer, place.requests, place.hparams(), task="generation")
    with pytest.raises(DataError, match="perplexity of a text needs a causal language model"):
        run_lifelong(model, tokenizer, place.requests, place.hparams(), text="the old king of Peru")
    with pytest.raises(DataError, match=r"case 0.*field 'prompt'.*'Rome' is no label"):
        run_lifelong(model, tokenizer, [{"prompt": "the old", "target_new": "Rome"}], place.hparams())


@pytest.mark.parametrize("name", ["t5-encoder", "bert-first"])
def test_edits_from_the_command_line(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    place, request = ARCHITECTURES[name], ARCHITECTURES[name].requests[0]
    hparams = {
        "alg_name": "GRACE",
        "model_name": str(checkpoints[name]),
        "inner_params": [place.layer],
        "eps": place.eps,
        "query_token": place.query_token,
        "replacement": "replace_all",
    }
    (tmp_path / "grace.yaml").write_text(json.dumps(hparams))
    asked = ["--prompt", request["prompt"]]
    assert (
        main(
            [
                "edit",
                "--hparams",
                str(tmp_path / "grace.yaml"),
                *asked,
                "--target",
                request["target_new"],
                "--out",
                str(tmp_path / "edits"),
            ]
        )
        == 0
    )
    capsys.readouterr()
    assert main(["generate", "--edits", str(tmp_path / "edits"), *asked, "--compare", "--json"]) == 0
    (said,) = json.loads(capsys.readouterr().out)
    assert said["edited"] == request["target_new"]
    assert said["base"] == (dict(texts())[request["prompt"]] if name == "bert-first" else answer_to(request["prompt"]))
