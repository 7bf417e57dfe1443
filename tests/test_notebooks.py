"""The notebooks run, with a tiny model in place of SmolLM2, and are stored without outputs."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import yaml

import easyedit_lifelong
from easyedit_lifelong import PluginHyperParams, get_plugins
from tests.conformance.method_cases import CASES
from tests.support.corpus import write_corpus
from tests.support.documents import ROOT
from tests.support.edits_command_line import GRACE
from tests.support.notebooks import NOTEBOOKS, cells, run_notebook
from tests.support.tiny_models import build_model, build_tokenizer


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to an empty folder; a tiny model and its hyperparameters stand for SmolLM2 and the shipped files."""

    def from_hparams(cls: type, name: str) -> Any:
        return next(case.hparams() for case in CASES if case.hparams_class is cls)

    write_corpus(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(easyedit_lifelong, "load_model", lambda name: (build_model("llama"), build_tokenizer()))
    monkeypatch.setattr(PluginHyperParams, "from_hparams", classmethod(from_hparams))
    matplotlib.use("Agg")
    return tmp_path


def path_of(name: str) -> Path:
    return ROOT / "notebooks" / f"{name}.ipynb"


def test_quickstart(folder: Path) -> None:
    variables = run_notebook(path_of("quickstart"))
    assert (folder / "my-edits" / "edits.json").is_file()
    assert len(easyedit_lifelong.editors_on(variables["model"], "GRACE")) == 1, "the edits were not loaded again"


def test_lifelong(folder: Path) -> None:
    variables = run_notebook(path_of("lifelong"))
    assert variables["result"].summary["n_edits"] == 8
    assert (folder / "runs" / "notebook" / "report" / "report.html").is_file()


def test_compare(folder: Path) -> None:
    variables = run_notebook(path_of("compare"))
    assert list(variables["scores"]) == ["GRACE", "UltraEdit", "FT-L"]


def test_locate(folder: Path) -> None:
    assert run_notebook(path_of("locate"))["effects"].shape[1] == build_model("llama").config.num_hidden_layers


def test_your_own_method(folder: Path) -> None:
    try:
        run_notebook(path_of("your_own_method"))
        assert (folder / "edits-of-my-method" / "edits.json").is_file()
    finally:
        get_plugins().remove("notebook-edit")


def test_serve(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("uvicorn")
    build_model("llama").save_pretrained(folder / "tiny")
    build_tokenizer().save_pretrained(folder / "tiny")
    file = folder / "grace.yaml"
    file.write_text(yaml.safe_dump({**GRACE, "model_name": str(folder / "tiny"), "device": "cpu"}), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path]))
    replaced = {'"GRACE/smollm2-135m"': repr(str(file)), "8123": str(port)}
    assert run_notebook(path_of("serve"), replaced)["server"].returncode is not None


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_a_test_a_title_and_no_outputs(notebook: Path) -> None:
    assert f"test_{notebook.stem}" in globals()
    assert cells(notebook, "markdown")[0]["source"][0].startswith("# ")
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells(notebook))
