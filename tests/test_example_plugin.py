"""The example plugin of docs/plugins.md, used as an installed plugin."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong import (
    bridge,
    explain,
    get_plugins,
    inspect_edits,
    load_edits,
    rollback_case,
    rollback_folder,
    run_lifelong,
)
from easyedit_lifelong.commands.main import main
from easyedit_lifelong.data.readers import read_requests
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.hookspecs import PROJECT
from tests.support.installed_easyedit import needs_easyedit
from tests.support.tiny_models import build_model, build_tokenizer

FILE = Path(__file__).parents[1] / "examples" / "plugin" / "easyedit_lifelong_biasedit.py"


class _EntryPoint:
    name = "biasedit"

    def load(self) -> Any:
        return importlib.import_module(FILE.stem)


@pytest.fixture
def biasedit(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The example plugin, with an entry point as if it were installed."""
    monkeypatch.syspath_prepend(FILE.parent)
    installed = metadata.entry_points
    monkeypatch.setattr(
        metadata, "entry_points", lambda **of: [_EntryPoint()] if of == {"group": PROJECT} else installed(**of)
    )
    get_plugins.cache_clear()
    try:
        yield get_plugins().manager.get_plugin("biasedit")
    finally:
        get_plugins.cache_clear()


def test_the_example_plugin_is_listed(biasedit: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins"]) == 0
    output = capsys.readouterr().out
    assert all(word in output for word in ("BiasEdit", "tsv", "last", "biasedit"))


def test_the_examples_method_format_and_tracker_work_in_a_run(biasedit: Any, tmp_path: Path) -> None:
    data = tmp_path / "facts.tsv"
    data.write_text("the capital of France is\tRome\nHamlet is from\tPeru\n")
    requests = read_requests(data, get_plugins().readers.get("tsv").read)
    hparams = biasedit.BiasEditHyperParams(model_name="tiny")
    result = run_lifelong(
        build_model("llama"),
        build_tokenizer(),
        requests,
        hparams,
        retention=[],
        out=tmp_path / "run",
        trackers=["last"],
    )
    assert result.metrics["ERR"] == 1.0
    assert result.metrics["generation_match"] == 1.0
    assert json.loads((tmp_path / "run" / "last.json").read_text())["ERR"] == 1.0


FACTS = [
    {"case_id": "france", "prompt": "the capital of France is", "target_new": "Rome"},
    {"case_id": "hamlet", "prompt": "Hamlet is from", "target_new": "Peru"},
]


@pytest.fixture
def edited(biasedit: Any) -> Any:
    """A model with two edits."""
    model = build_model("llama")
    biasedit.apply_biasedit_to_model(model, build_tokenizer(), FACTS, biasedit.BiasEditHyperParams(model_name="tiny"))
    return model


def test_the_examples_edits_are_explained(edited: Any) -> None:
    explanation = explain(edited, build_tokenizer(), "the capital of France is", "Rome")
    assert str(explanation).splitlines() == [
        "BiasEdit, logits",
        "  'the'",
        "  'capital'",
        "  'of'",
        "  'France'",
        "  'is'  answered by case 'france'",
        "  'Rome'",
    ]
    (layer,) = explain(edited, build_tokenizer(), "blue sea").layers["BiasEdit"]
    assert [case for _, case in layer.tokens] == [None, None]


def test_the_examples_edits_are_inspected_and_rolled_back_by_case(
    edited: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edited.save_edits(tmp_path)
    (part,) = inspect_edits(tmp_path).parts
    assert [(edit["case_id"], edit["strength"]) for edit in part.edits] == [("france", 100.0), ("hamlet", 100.0)]
    assert main(["inspect", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert all(text in output for text in ("strength", "france", "hamlet"))

    (record,) = rollback_case(edited, "france")
    assert record.prompt == FACTS[0]["prompt"]
    assert str(explain(edited, build_tokenizer(), record.prompt)).count("answered by") == 0
    rollback_folder(tmp_path, cases=["france"])
    fresh = build_model("llama")
    assert [edit["case_id"] for edit in load_edits(fresh, tmp_path).results] == ["hamlet"]
    rollback_case(edited, "hamlet")
    assert not edited._forward_hooks
    assert not hasattr(edited, "save_edits")


def test_the_example_adds_a_section_to_the_report(biasedit: Any, tmp_path: Path) -> None:
    run_lifelong(
        build_model("llama"),
        build_tokenizer(),
        FACTS,
        biasedit.BiasEditHyperParams(model_name="tiny"),
        retention=[],
        eval_every=1,
        out=tmp_path / "run",
    )
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "report")]) == 0
    pages = [path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")]
    assert any("One for each edit." in page for page in pages)


@pytest.mark.parametrize("state", [{}, {"data": [{}]}, {"data": [1, 2]}, {"data": None}])
def test_saved_data_that_do_not_fit_the_edits_are_refused(edited: Any, state: dict[str, Any]) -> None:
    store, model = get_plugins().methods.get("BiasEdit").edits, build_model("llama")
    assert store is not None
    (part,) = store.parts(edited)
    with pytest.raises(RunError, match=r"edits\.json: 2 edits need as many entries of data"):
        store.attach(model, None, dataclasses.replace(part, state=state), "edits.json")
    assert not model._forward_hooks


@needs_easyedit
def test_the_examples_method_works_through_base_editor(
    biasedit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hparams = biasedit.BiasEditHyperParams(model_name=(build_model("llama"), build_tokenizer()))
    editor = bridge.base_editor().from_hparams(hparams)
    metrics, _, _ = editor.edit(
        prompts=["the capital of France is"], target_new=["Rome"], ground_truth=["Paris"], keep_original_weight=True
    )
    assert metrics[0]["post"]["rewrite_acc"] == [1.0]
