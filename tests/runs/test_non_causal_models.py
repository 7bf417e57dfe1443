"""Runs on a classifier and on an encoder-decoder, from a checkpoint to the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong import load_model, run_lifelong
from easyedit_lifelong.commands.main import main
from easyedit_lifelong.errors import DataError, HyperParameterError, ModelError
from tests.conformance.method_cases import CASES
from tests.support.architectures import ARCHITECTURES, QUESTIONS, answer_to, texts


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with small trained models."""
    folders = {}
    for name in ("t5-encoder", "bert-first"):
        model, tokenizer = ARCHITECTURES[name].build()
        folders[name] = tmp_path_factory.mktemp(name) / "checkpoint"
        model.save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    return folders


def hparams_of(name: str, checkpoint: Path) -> dict[str, Any]:
    architecture = ARCHITECTURES[name]
    return {
        "alg_name": "GRACE",
        "model_name": str(checkpoint),
        "inner_params": [architecture.layer],
        "eps": architecture.eps,
        "query_token": architecture.query_token,
        "replacement": "replace_all",
    }


def write_experiment(name: str, checkpoint: Path, folder: Path, records: list[Any], **more: Any) -> Path:
    (folder / "data.json").write_text(json.dumps(records), encoding="utf-8")
    file = folder / "experiment.yaml"
    file.write_text(
        json.dumps({"loop": "lifelong", "hparams": hparams_of(name, checkpoint), "schedule": {"at": [2, 4]}, **more})
    )
    return file


def metrics_of(folder: Path) -> dict[str, float]:
    scores: dict[str, float] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["metrics"]
    return scores


def test_a_run_on_a_classifier_is_scored_and_reported(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    requests = ARCHITECTURES["bert-first"].requests
    data = [{"text": request["prompt"], "label": request["target_new"]} for request in requests]
    correct = [{"text": text, "label": label} for text, label in texts()[10:20]]
    (tmp_path / "correct.json").write_text(json.dumps(correct))
    file = write_experiment(
        "bert-first",
        checkpoints["bert-first"],
        tmp_path,
        [*data, *correct[:1]],
        only_errors=True,
        data={"path": "data.json"},
        retention="correct.json",
    )
    out = tmp_path / "run"
    assert main(["run", str(file), "--out", str(out)]) == 0
    scores = metrics_of(out)
    assert scores["ES"] == scores["ERR"] == scores["ERR_acc"] == scores["TRR"] == scores["TRR_acc"] == 1.0
    assert scores["ERR_acc_before"] == 0.0
    assert scores["TRR_acc_before"] == 1.0
    assert not {"generation_match", "exact_match", "ERR_f1"} & set(scores), (
        "a classifier generates no text, so it can have no scores of text"
    )
    journal = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    assert [entry["status"] for entry in journal] == ["edited"] * 4 + ["skipped"]
    assert main(["report", str(out)]) == 0
    assert "reliability" in (out / "report" / "report.html").read_text(encoding="utf-8")


def test_a_run_on_an_encoder_decoder_is_scored_and_reported(checkpoints: dict[str, Path], tmp_path: Path) -> None:
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
    file = write_experiment(
        "t5-encoder",
        checkpoints["t5-encoder"],
        tmp_path,
        data,
        data={"path": "data.json", "format": "json"},
        retention="held_out.json",
        self_consistency=True,
    )
    out = tmp_path / "run"
    assert main(["run", str(file), "--out", str(out)]) == 0
    scores = metrics_of(out)
    for name in ("ES", "ERR", "generality", "locality", "generation_match", "exact_match", "ERR_f1", "TRR_f1", "TRR"):
        assert scores[name] == 1.0, name
    assert scores["exact_match_before"] == scores["reliability_before"] == 0.0
    generations = [json.loads(line) for line in (out / "generations.jsonl").read_text().splitlines()]
    assert {line["prompt"]: line["after"] for line in generations} == {
        line["prompt"]: line["target_new"] for line in data
    }
    assert all(line["continuation_after"].startswith(line["target_new"]) for line in generations)
    assert {line["before"] for line in generations} == {answer_to(line["prompt"]) for line in data}
    assert main(["report", str(out)]) == 0


def test_a_classifier_refuses_generation_perplexity_and_unknown_labels(checkpoints: dict[str, Path]) -> None:
    architecture = ARCHITECTURES["bert-first"]
    model, tokenizer = load_model(checkpoints["bert-first"])
    with pytest.raises(HyperParameterError, match="classifier; it writes no text"):
        run_lifelong(model, tokenizer, architecture.requests, architecture.hparams(), task="generation")
    with pytest.raises(DataError, match="perplexity of a text needs a causal language model"):
        run_lifelong(model, tokenizer, architecture.requests, architecture.hparams(), text="the old king of Peru")
    with pytest.raises(ModelError, match="self-consistency needs a model that generates text"):
        run_lifelong(model, tokenizer, architecture.requests, architecture.hparams(), self_consistency=True)
    with pytest.raises(DataError, match=r"case 0.*field 'prompt'.*'Rome' is no label"):
        run_lifelong(model, tokenizer, [{"prompt": "the old", "target_new": "Rome"}], architecture.hparams())


def test_an_unfit_method_is_refused_before_the_records_are(checkpoints: dict[str, Path]) -> None:
    """Records suit a kind of model: the field is not what is wrong."""
    model, tokenizer = load_model(checkpoints["bert-first"])
    hparams = next(case for case in CASES if case.name == "UltraEdit").hparams()
    for more in ({}, {"skip_unusable": True}, {"task": "generation"}):
        with pytest.raises(ModelError, match=r"^UltraEdit edits causal language models; .* is a sequence classifier"):
            run_lifelong(model, tokenizer, [{"prompt": "the old", "target_new": "Rome"}], hparams, **more)


@pytest.mark.parametrize("name", ["t5-encoder", "bert-first"])
def test_edit_and_generate_commands_work_on_non_causal_models(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    request = ARCHITECTURES[name].requests[0]
    (tmp_path / "grace.yaml").write_text(json.dumps(hparams_of(name, checkpoints[name])))
    prompt_arguments = ["--prompt", request["prompt"]]
    options = ["--hparams", str(tmp_path / "grace.yaml"), "--target", request["target_new"]]
    assert main(["edit", *options, *prompt_arguments, "--out", str(tmp_path / "edits")]) == 0
    capsys.readouterr()
    assert main(["generate", "--edits", str(tmp_path / "edits"), *prompt_arguments, "--compare", "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["edited"] == request["target_new"]
    assert answer["base"] == (
        dict(texts())[request["prompt"]] if name == "bert-first" else answer_to(request["prompt"])
    )
