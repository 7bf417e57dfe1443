"""The plugin that docs/plugins.md points to, run as a third party's."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong import bridge, get_plugins, run_lifelong
from easyedit_lifelong.commands.main import main
from easyedit_lifelong.data.readers import read_requests
from easyedit_lifelong.hookspecs import PROJECT
from tests.conftest import build_model, build_tokenizer

FILE = Path(__file__).parents[1] / "examples" / "plugin" / "easyedit_lifelong_biasedit.py"


class _EntryPoint:
    name = "biasedit"

    def load(self) -> Any:
        return importlib.import_module(FILE.stem)


@pytest.fixture
def biasedit(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The example, installed: its entry point is there."""
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


def test_it_is_listed(biasedit: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins"]) == 0
    listed = capsys.readouterr().out
    assert all(word in listed for word in ("BiasEdit", "tsv", "last", "biasedit"))


def test_its_method_format_and_tracker_in_a_lifelong_run(biasedit: Any, tmp_path: Path) -> None:
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


def test_its_method_through_base_editor(biasedit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if bridge.find_easyedit() is None:
        pytest.skip("EasyEdit isn't installed")
    monkeypatch.chdir(tmp_path)
    hparams = biasedit.BiasEditHyperParams(model_name=(build_model("llama"), build_tokenizer()))
    editor = bridge.base_editor().from_hparams(hparams)
    metrics, _, _ = editor.edit(
        prompts=["the capital of France is"], target_new=["Rome"], ground_truth=["Paris"], keep_original_weight=True
    )
    assert metrics[0]["post"]["rewrite_acc"] == [1.0]
