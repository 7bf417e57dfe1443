"""Every method: saved edits answer the same in another process, and killed runs resume with the same results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from easyedit_lifelong import load_edits, save_edits
from tests.conformance.load_elsewhere import write_logits
from tests.conformance.method_cases import CASES, REQUESTS, MethodCase, each_case, each_case_with
from tests.conformance.observe import Logits, assert_unchanged, equal, logits_of, snapshot_of
from tests.support.tiny_models import build_model

ROOT = Path(__file__).parents[2]


def run_module(name: str, *arguments: str) -> str:
    """Run a module of the tests as a process; return what it prints."""
    paths = [str(ROOT), *sys.path]
    process = subprocess.run(
        [sys.executable, "-m", name, *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 0, process.stderr[-4000:]
    return process.stdout


# ------------------------------------------------------------------ saved edits


def _logits_in(path: Path) -> Logits:
    logits = load_file(path)
    return [logits[prompt] for prompt in sorted(logits)]


@pytest.fixture(scope="module")
def loaded_elsewhere(tmp_path_factory: pytest.TempPathFactory, moments_folder: Path) -> Path:
    """The folder of every method's saved edits, and of their logits in this process and in another."""
    folder, current_folder = tmp_path_factory.mktemp("elsewhere"), Path.cwd()
    os.chdir(moments_folder)
    for case in CASES:
        if case.method.edits is not None:
            model = case.edited()
            save_edits(model, folder / case.name)
            write_logits(model, folder / f"{case.name}.saved.safetensors")
    os.chdir(current_folder)
    run_module("tests.conformance.load_elsewhere", str(folder))
    return folder


@each_case_with("edits")
def test_saved_edits_answer_the_same_in_another_process(case: MethodCase, loaded_elsewhere: Path) -> None:
    edits = loaded_elsewhere / case.name
    saved, loaded, unloaded = (
        _logits_in(edits.with_suffix(f".{what}.safetensors")) for what in ("saved", "loaded", "unloaded")
    )
    assert equal(loaded, saved)
    assert not equal(unloaded, saved)
    write_logits(build_model("llama"), edits.with_suffix(".unedited.safetensors"))
    assert equal(unloaded, _logits_in(edits.with_suffix(".unedited.safetensors")))


@each_case_with("edits")
def test_loaded_edits_are_the_saved_ones_and_are_rolled_back(case: MethodCase, loaded_elsewhere: Path) -> None:
    model = build_model("llama")
    unedited = snapshot_of(model)
    rollback = load_edits(model, loaded_elsewhere / case.name)
    assert equal(logits_of(model), logits_of(case.edited()))
    assert [edit["case_id"] for edit in rollback.results] == [request["case_id"] for request in REQUESTS]
    rollback()
    assert_unchanged(model, unedited)


# ------------------------------------------------------------------ killed runs


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The outcomes of every method's killed runs, as ``killed_runs.py`` reports them."""
    if not hasattr(os, "fork"):
        pytest.skip("runs are killed as forked processes, and this system cannot fork")
    return dict(json.loads(run_module("tests.conformance.killed_runs", str(tmp_path_factory.mktemp("killed")))))


@each_case
def test_a_killed_run_resumes_and_ends_as_an_uninterrupted_one(case: MethodCase, killed: dict[str, Any]) -> None:
    if not case.resumable:
        pytest.skip(f"{case.method.name} has neither state nor an edit store that a run appends to")
    assert killed[case.name]["kills"] == 3
    assert killed[case.name]["differing"] == []
