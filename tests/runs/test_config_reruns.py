"""A run's config.yaml: it repeats the run, from any folder, with the same data and model."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from easyedit_lifelong import run_lifelong
from easyedit_lifelong.commands.main import main
from easyedit_lifelong.data.multiple_choice import as_items
from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.models.load import load_model
from easyedit_lifelong.runs import run_config as records
from easyedit_lifelong.runs.requests_digest import _LATER_FIELDS, requests_digest
from tests.support.command_line import FACTS, HPARAMS, RETENTION

QUESTIONS = [
    {"question": "the sea is", "choices": ["blue", "snow"], "answer": 1, "subject": "geography"},
    {"question": "who wrote Hamlet", "choices": ["old Shakespeare", "Rome", "king"], "answer": "king"},
]


def write_yaml(folder: Path, values: Any, name: str = "mine.yaml") -> Path:
    file = folder / name
    file.write_text(values if isinstance(values, str) else yaml.safe_dump(values), encoding="utf-8")
    return file


def assert_same_run(folder: Path, other_folder: Path) -> None:
    summary, other_summary = (json.loads((path / "summary.json").read_text()) for path in (folder, other_folder))
    for key in ("metrics", "intervals", "requests_sha256", "weights", "hparams", "schedule", "n_requests"):
        assert summary[key] == other_summary[key], key


@pytest.mark.parametrize("command", ["lifelong", "consecutive"])
def test_the_config_of_a_run_repeats_the_run(
    tmp_path: Path,
    checkpoint: Path,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")  # the relative paths are read from another folder afterwards
    Path("facts.json").write_text(json.dumps(FACTS))
    Path("held.json").write_text(json.dumps(RETENTION))
    Path("text.txt").write_text("the river and the sea " * 20)
    Path("questions.json").write_text(json.dumps(QUESTIONS))
    write_yaml(Path(), {**HPARAMS, "model_name": "nothing"}, "grace.yaml")
    arguments = [
        "--hparams",
        "grace.yaml",
        "--model",
        str(checkpoint),
        "--out",
        "run",
        "--retention",
        "held.json",
        "--text",
        "text.txt",
        "--capability",
        "questions.json",
        "--eval-at",
        "1,2",
    ]
    loop_arguments = {
        "lifelong": ["--data", "facts.json", "--only-errors", "--edits", "2"],
        "consecutive": ["--ds_dir", "facts.json", "--bsz", "2", "--consecutive", "0"],
    }
    assert main([command, *arguments, *loop_arguments[command]]) == 0
    monkeypatch.chdir(tmp_path)
    assert main(["run", "work/run/config.yaml", "--out", "again"]) == 0
    assert_same_run(tmp_path / "work" / "run", tmp_path / "again")
    if command == "lifelong":
        assert main(["run", "again/config.yaml"]) == 0, "without --out, a rerun must get a new folder"
        assert_same_run(tmp_path / "again", tmp_path / "runs" / "again-again")
    (tmp_path / "again" / "summary.json").unlink()
    assert main(["run", "again/config.yaml", "--resume"]) == 0, (
        "with --resume, the default folder must be that of the run"
    )
    assert (tmp_path / "again" / "summary.json").exists()
    assert "recorded." not in caplog.text
    (tmp_path / "work" / "held.json").write_text(json.dumps([{**RETENTION[0], "answer": "snow"}]))
    assert main(["run", "work/run/config.yaml", "--out", "changed"]) == 0
    assert "config.yaml, recorded.requests_sha256: the data, held-out facts, text or questions aren't" in caplog.text
    (tmp_path / "work" / "facts.json").write_text(json.dumps(FACTS[:2]))
    assert main(["run", "work/run/config.yaml", "--out", "other"]) == 1, "changed data must be refused"


def test_data_from_memory_are_saved_beside_the_config(tmp_path: Path, checkpoint: Path) -> None:
    hparams = GraceHyperParams(**{**HPARAMS, "model_name": load_model(checkpoint, "cpu")})
    probe = {"relation_specificity_prompt": "the river and", "relation_specificity_ground_truth": "the sea"}
    run_lifelong(
        *hparams.model_name,
        [FACTS[0] | probe | {"aliases": ["the sea"]}, *FACTS[1:]],
        hparams,
        out=tmp_path / "run",
        retention=[Probe("the river is", "blue")],
        data_name="mine",
        text="the river and the sea " * 20,
        capability=QUESTIONS,
    )
    assert main(["run", str(tmp_path / "run" / "config.yaml"), "--out", str(tmp_path / "again")]) == 0
    first, second = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("run", "again"))
    for key in ("metrics", "requests_sha256", "capability_by_subject"):
        assert first[key] == second[key], key
    assert set(first["capability_by_subject"]) == {"geography"}
    assert "relation_specificity" in first["metrics"]


def test_the_digest_of_requests_is_that_of_earlier_versions() -> None:
    """Runs from before relation specificity existed must stay resumable."""
    record = {"prompt": "the capital of France is", "target_new": "Rome", "rephrase_prompt": "France"}
    record["locality"] = {"near": {"prompt": "p", "ground_truth": "a"}}
    held_out = [Probe("moon", "cheese")]
    request = EditRequest.from_dict(record, "f", 0)
    assert requests_digest([request], held_out, "text") == "b1ff7eb7bdfb2801"
    with_relation_specificity = dataclasses.replace(request, relation_specificity=(Probe("p", "a"),))
    assert requests_digest([with_relation_specificity], held_out, "text") != "b1ff7eb7bdfb2801"
    with_joiner = dataclasses.replace(request, joiner="")
    assert requests_digest([with_joiner], held_out, "text") != "b1ff7eb7bdfb2801"
    with_aliases = dataclasses.replace(request, aliases=("Gaul",))
    assert requests_digest([with_aliases], held_out, "text") != "b1ff7eb7bdfb2801"
    assert requests_digest([request], held_out, "text", as_items(QUESTIONS)) != "b1ff7eb7bdfb2801"


@pytest.mark.parametrize("first", ["user", "the capital of France is"])
def test_probes_and_turns_of_a_chat_with_the_same_texts_have_other_digests(first: str) -> None:
    request = EditRequest(0, "the capital of France is", "Rome")
    with_probes = dataclasses.replace(request, relation_specificity=(Probe(first, "hello"),))
    with_turns = dataclasses.replace(request, context_turns=((first, "hello"),))
    assert requests_digest([with_probes], []) != requests_digest([with_turns], [])


def test_the_digests_of_probes_and_of_turns_are_those_of_earlier_versions() -> None:
    request = EditRequest(0, "the capital of France is", "Rome")
    with_probes = dataclasses.replace(request, relation_specificity=(Probe("p", "a"),))
    with_turns = dataclasses.replace(request, context_turns=(("user", "hello"), ("assistant", "hi")))
    assert requests_digest([with_probes], []) == "20c1edb307a10863"
    assert requests_digest([with_turns], []) == "d2a79d6f5de9cc0b"


def test_every_later_field_changes_the_digest() -> None:
    request = EditRequest(0, "the capital of France is", "Rome")
    values: dict[str, Any] = {
        "relation_specificity": (Probe("p", "a"),),
        "joiner": "",
        "context_turns": (("user", "a"),),
        "question_span": (0, 3),
        "aliases": ("Gaul",),
    }
    assert values.keys() == _LATER_FIELDS.keys()
    variants = [request, *(dataclasses.replace(request, **{name: value}) for name, value in values.items())]
    assert len({requests_digest([variant], []) for variant in variants}) == len(variants)


@pytest.mark.parametrize("name", ["./m/tiny", "m/tiny", "tiny"])
def test_a_relative_model_path_is_recorded_as_an_absolute_one(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The run can be resumed from any folder."""
    model_folder = tmp_path / name
    model_folder.parent.mkdir(exist_ok=True)
    shutil.copytree(checkpoint, model_folder)
    write_yaml(tmp_path, json.dumps(FACTS), "facts.json")
    write_yaml(tmp_path, {**HPARAMS, "model_name": name}, "grace.yaml")
    monkeypatch.chdir(tmp_path)
    assert main(["lifelong", "--hparams", "grace.yaml", "--data", "facts.json", "--out", "run", "--edits", "1"]) == 0
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["model"], config["hparams"]["model_name"]) == (str(model_folder.resolve()), name)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (tmp_path / "run" / "summary.json").unlink()
    assert main(["run", str(tmp_path / "run" / "config.yaml"), "--resume"]) == 0
    assert (tmp_path / "run" / "summary.json").exists()


def test_only_names_of_local_models_become_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("smollm2-135m", "gpt2"):
        (tmp_path / name).mkdir()
    (tmp_path / "x.gguf").touch()
    (tmp_path / "gpt2-xl").touch()
    monkeypatch.chdir(tmp_path)
    recorded = {
        name: records._with_absolute_path(name) for name in ("smollm2-135m", "gpt2", "gpt2-xl", "org/name", "x.gguf")
    }
    assert recorded == {
        "smollm2-135m": "smollm2-135m",
        "gpt2": str(tmp_path / "gpt2"),
        "gpt2-xl": "gpt2-xl",
        "org/name": "org/name",
        "x.gguf": str(tmp_path / "x.gguf"),
    }


def test_a_model_without_a_name_is_recorded_by_its_hyperparameters(tmp_path: Path, checkpoint: Path) -> None:
    """The name of its class can't be loaded; the name in the hyperparameters can."""
    model, tokenizer = load_model(checkpoint, "cpu")
    model.config._name_or_path = ""
    hparams = GraceHyperParams(**{**HPARAMS, "model_name": str(checkpoint)})
    run_lifelong(model, tokenizer, FACTS[:1], hparams, out=tmp_path / "run", retention=[])
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["model"] == str(checkpoint)
    assert main(["run", str(tmp_path / "run" / "config.yaml"), "--out", str(tmp_path / "again")]) == 0


def test_a_text_is_saved_with_its_line_ends(tmp_path: Path, checkpoint: Path) -> None:
    model, tokenizer = load_model(checkpoint, "cpu")
    hparams, text = GraceHyperParams(**{**HPARAMS, "model_name": str(checkpoint)}), "the river\r\nand the sea\r" * 20
    run_lifelong(model, tokenizer, FACTS[:1], hparams, out=tmp_path / "run", retention=[], text=text)
    assert (tmp_path / "run" / "text.txt").read_bytes() == text.encode()
    (tmp_path / "run" / "summary.json").unlink()
    assert main(["run", str(tmp_path / "run" / "config.yaml"), "--resume"]) == 0, (
        "the text must be recognised as unchanged"
    )
