"""``locate``: the command traces facts, prints layers and writes a page; it checks its input before loading a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
import yaml

from easyedit_lifelong.commands import locate
from easyedit_lifelong.models.load import load_model
from easyedit_lifelong.runs.hyperparameter_files import find_method, load_hparams
from tests.support.command_line import FACTS, HPARAMS, call, forbid_loading

PROMPTS = [("the capital of France is", "France"), ("who wrote Hamlet when the old king was", "old king")]


@pytest.fixture
def words(tmp_path: Path, checkpoint: Path) -> list[str]:
    """The words of the command, with a file of facts that the model knows."""
    model, tokenizer = load_model(checkpoint, "cpu")
    records = []
    for prompt, subject in PROMPTS:
        with torch.no_grad():
            answer = tokenizer.decode(model(torch.tensor([tokenizer(prompt)["input_ids"]])).logits[0, -1].argmax())
        records.append({"prompt": prompt, "subject": subject, "attribute": answer})
    (tmp_path / "facts.json").write_text(json.dumps(records))
    out = str(tmp_path / "out")
    return [
        "locate",
        "--model",
        str(checkpoint),
        "--data",
        str(tmp_path / "facts.json"),
        "--samples",
        "2",
        "--out",
        out,
    ]


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no figures, which takes seconds."""
    monkeypatch.setattr(locate, "write_trace_report", lambda *_: Path("report.html"))


def test_facts_are_traced_and_shown_on_a_page(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, output, error = call(capsys, *words)
    assert code == 0, error
    assert "2 facts traced, 0 not known, 0 skipped" in output
    assert "last subject token" in output
    assert "One layer: " in output
    report = tmp_path / "out" / "report"
    page = (report / "report.html").read_text()
    for heading in ("Average effects", "Severed paths", "Layers", "Single facts"):
        assert f">{heading}</h2>" in page
    assert "king*" not in page.split("<svg")[0]
    heat = ElementTree.parse(report / "heat-1-state.svg")
    texts = ["".join(element.itertext()).strip() for element in heat.iter() if element.tag.endswith("text")]
    assert [text for text in texts if text.endswith("*")] == ["old*", "king*"]
    assert page.count('role="img"') == 3 + 1 + 2 * 3
    assert "var(--s1)" in page


def test_any_identifier_of_a_fact_gives_files_beside_the_page(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = Path(words[4])
    records = json.loads(facts.read_text())
    facts.write_text(json.dumps([{**records[0], "known_id": "../../x"}, {**records[1], "known_id": "é" * 300}]))
    code, _, error = call(capsys, *words, "--kinds", "state", "--severed", "none")
    assert code == 0, error
    report = tmp_path / "out" / "report"
    heats = sorted(path.name for path in report.glob("heat-*.svg"))
    assert len(heats) == 2 and heats[0].startswith("heat-.._.._x-")
    assert not list(tmp_path.rglob("x-state.*"))


@pytest.mark.usefixtures("no_page")
def test_one_fact_of_the_command_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    record: dict[str, Any] = json.loads(Path(words[4]).read_text())[0]
    single = ["--prompt", record["prompt"], "--subject", record["subject"], "--answer", record["attribute"]]
    code, output, error = call(capsys, *words[:3], *words[5:], *single, "--kinds", "state", "--severed", "none")
    assert code == 0, error
    assert "1 fact traced" in output
    assert "suggest no layers" in output


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--kinds", "neurons"], "--kinds: 'neurons' isn't known. Use state, mlp, attention."),
        (["--severed", "state"], "--severed: 'state' isn't known"),
        (["--prompt", "the king"], "name facts with --data FILE, or one fact with --prompt, --subject and --answer"),
        (["--replace-subject", "--noise", "1"], "leave out --noise"),
        (["--resume"], "holds no tracing to resume"),
        (["--data", "absent.json"], "absent.json"),
    ],
)
def test_wrong_input_is_named_before_a_model_is_loaded(
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    changes: list[str],
    message: str,
) -> None:
    forbid_loading(monkeypatch, locate, "load_model")
    code, _, error = call(capsys, *words, *changes)
    assert code == 1
    assert message in error


def test_a_model_that_knows_no_fact_is_an_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path(words[4]).write_text(json.dumps([{"prompt": "the king is", "subject": "king", "attribute": "<unk>"}]))
    code, _, error = call(capsys, *words)
    assert code == 1
    assert "no fact was traced" in error


@pytest.mark.usefixtures("no_page")
def test_a_suggested_file_edits_the_model(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "suggested.yaml"
    code, output, error = call(capsys, *words, "--suggest", "ROME-native", "--hparams-out", file)
    assert code == 0, error
    assert f"Suggested hyperparameters of ROME-native: {file}" in output
    hparams = load_hparams(file)
    assert hparams.model_name == words[2]
    assert f"One layer: {hparams.layers[0]}." in output
    assert hparams.rewrite_module_tmp == "model.layers.{}.mlp.down_proj"
    assert hparams.v_loss_layer == 3
    assert hparams.mom2_n_tokens == 480
    model, tokenizer = load_model(words[2], "cpu")
    find_method(hparams).check(model, tokenizer, hparams)
    several = call(capsys, *words, "--resume", "--suggest", "MEMIT-native")
    assert several[0] == 0
    layers = load_hparams(tmp_path / "out" / "MEMIT-native.yaml").layers
    assert f"Several layers: {layers[0]} to {layers[-1]}." in several[1]


def test_a_suggested_file_that_is_a_folder_is_refused_before_the_work(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_loading(monkeypatch, locate, "load_model")
    code, _, error = call(capsys, *words, "--suggest", "ROME-native", "--hparams-out", tmp_path)
    assert code == 1
    assert f"{tmp_path}: is a folder. Name a file." in error


def test_a_method_without_numbered_layers_is_not_suggested(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_loading(monkeypatch, locate, "load_model")
    code, _, error = call(capsys, *words, "--suggest", "GRACE")
    assert code == 1
    assert "--suggest GRACE: causal tracing suggests `layers` of MLPs" in error


@pytest.mark.usefixtures("no_page")
def test_a_sweep_is_shown_beside_the_traces(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grace = {**HPARAMS, "model_name": words[2], "n_iter": 5}
    (tmp_path / "grace.yaml").write_text(yaml.safe_dump(grace))
    (tmp_path / "edits.json").write_text(json.dumps(FACTS))
    sweep = ["--sweep", tmp_path / "grace.yaml", "--sweep-layers", "0-2", "--sweep-edits", "1", "--sweep-offset", "1"]
    code, _, error = call(capsys, *words, *sweep)
    assert code == 1
    assert "--sweep needs edit requests" in error
    sweep += ["--sweep-data", tmp_path / "edits.json"]
    for layers, exit_code, message in (
        ("0,99", 1, "has no layer 99"),
        ("up", 2, "argument --sweep-layers: layers: 'up' isn't a list of layers such as 13-17 or 3-7,9"),
    ):
        code, _, error = call(capsys, *words, *sweep, "--sweep-layers", layers)
        assert (code, message in error) == (exit_code, True), error
        assert not (tmp_path / "out").exists(), "facts were traced first"
    code, output, error = call(capsys, *words, *sweep)
    assert code == 0, error
    assert "Editing 1 fact at each of 3 layers with GRACE" in output
    assert "layer 2: reliability " in output
    assert "Best layer by the harmonic mean of the scores: " in output
    entries = json.loads((tmp_path / "out" / "sweep" / "GRACE.json").read_text())["layers"]
    assert [len(entry) for entry in entries.values()] == [1, 1, 1]
