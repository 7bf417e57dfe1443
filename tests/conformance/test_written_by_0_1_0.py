"""Folders written by version 0.1.0: their edits load, and their runs resume with the results of that version."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from easyedit_lifelong import load_edits, save_edits
from tests.fixtures import runs_0_1_0 as written
from tests.fixtures.runs_0_1_0 import FOLDER, RUNS
from tests.support.coachhook_edits import equal_states

EDITS = sorted(path.name for path in (FOLDER / "edits").iterdir() if path.is_dir())
CUT_FOLDERS = ("cut", "ahead")
_ROUNDING = {"rtol": 1e-3, "atol": 1e-3}


@pytest.fixture(scope="module")
def exact() -> bool:
    """Whether this machine's logits are bitwise those of the machine that wrote the fixtures."""
    return equal_states(written.logits_of(written.model()), load_file(FOLDER / "logits.safetensors"))


def assert_same(actual: Any, stored: Any, label: str, *, exact: bool = True) -> None:
    """Compare tensors and JSON values, bitwise or up to rounding. Later versions may have added keys to JSON."""
    if isinstance(stored, dict) and isinstance(actual, dict):
        tensors = any(isinstance(value, torch.Tensor) for value in actual.values())
        assert actual.keys() == stored.keys() if tensors else actual.keys() >= stored.keys(), label
        for name, value in stored.items():
            assert_same(actual[name], value, f"{label}: {name}", exact=exact)
    elif isinstance(stored, list) and isinstance(actual, list):
        assert len(actual) == len(stored), label
        for number, value in enumerate(stored):
            assert_same(actual[number], value, f"{label}, {number}", exact=exact)
    elif isinstance(stored, torch.Tensor):
        torch.testing.assert_close(actual, stored, **({"rtol": 0, "atol": 0} if exact else _ROUNDING), msg=label)
    elif isinstance(stored, float) and not exact:
        assert actual == pytest.approx(stored, rel=1e-3, abs=1e-4), label
    else:
        assert actual == stored, label


def logits_with(name: str) -> dict[str, torch.Tensor]:
    """Return the stored logits of a model with these edits."""
    stored = load_file(FOLDER / "edits" / f"{name}.logits.safetensors")
    assert not equal_states(stored, load_file(FOLDER / "logits.safetensors"))
    return stored


def entries_of(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's file without their times."""
    lines = path.read_text(encoding="utf-8").splitlines()
    entries: list[Any] = list(csv.DictReader(lines)) if path.suffix == ".csv" else [json.loads(line) for line in lines]
    return [{name: value for name, value in entry.items() if "seconds" not in name} for entry in entries]


def summary_of(folder: Path) -> dict[str, Any]:
    """Return a run's summary without its times, its machine and the versions of packages."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    left_out = ("timing", "memory", "finished", "versions", "machine")
    return {name: value for name, value in summary.items() if name not in left_out}


def parts_of(folder: Path) -> list[dict[str, Any]]:
    """Return the entries of an edits folder's index, without times and hits, which a run does not store."""
    parts = json.loads((folder / "edits.json").read_text(encoding="utf-8"))["parts"]
    for part in parts:
        part["state"].pop("hits", None)
        for edit in part["edits"]:
            edit.pop("time")
    return list(parts)


def test_the_fixtures_are_small_and_belong_to_the_model_of_the_formula() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1_500_000
    stored, actual = load_file(FOLDER / "logits.safetensors"), written.logits_of(written.model())
    torch.testing.assert_close(actual, stored, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", EDITS)
def test_edits_load_with_the_stored_logits_and_are_rolled_back(name: str, exact: bool) -> None:
    model = written.model()
    unedited = written.logits_of(model)
    rollback = load_edits(model, FOLDER / "edits" / name)
    assert_same(written.logits_of(model), logits_with(name), name, exact=exact)
    rollback()
    assert equal_states(written.logits_of(model), unedited)


@pytest.mark.parametrize("name", EDITS)
def test_edits_that_are_loaded_and_saved_again_are_unchanged(name: str, tmp_path: Path) -> None:
    model = written.model()
    load_edits(model, FOLDER / "edits" / name)
    save_edits(model, tmp_path)
    assert_same(parts_of(tmp_path), parts_of(FOLDER / "edits" / name), "edits.json")
    assert equal_states(
        load_file(tmp_path / "edits.safetensors"), load_file(FOLDER / "edits" / name / "edits.safetensors")
    )


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A folder with the corpus and the statistics that the runs read."""
    shutil.copy(FOLDER / written.CORPUS, tmp_path)
    shutil.copytree(FOLDER / written.STATS, tmp_path / written.STATS)
    return tmp_path


@pytest.mark.parametrize("cut", CUT_FOLDERS)
@pytest.mark.parametrize("name", RUNS)
def test_an_interrupted_run_resumes_and_ends_with_the_stored_results(
    name: str, cut: str, workspace: Path, exact: bool
) -> None:
    uninterrupted = FOLDER / "runs" / name / "whole"
    shutil.copytree(FOLDER / "runs" / name / cut, workspace / "run")
    result = written.in_folder(workspace, name, written.model(), resume=True)
    if not exact:
        pytest.skip("this machine rounds differently from the one that wrote the fixtures, so training differs")
    for path in uninterrupted.iterdir():
        if path.suffix in (".jsonl", ".csv"):
            assert_same(entries_of(workspace / "run" / path.name), entries_of(path), path.name)
    stored, actual = summary_of(uninterrupted), summary_of(workspace / "run")
    assert_same({key: actual.get(key) for key in stored}, stored, "summary.json")
    assert_same(written.logits_of(result.edited_model), logits_with(name), "logits")
    save_edits(result.edited_model, workspace / "edits")
    assert_same(parts_of(workspace / "edits"), parts_of(FOLDER / "edits" / name), "edits.json")
    saved, stored_edits = (
        load_file(path / "edits.safetensors") for path in (workspace / "edits", FOLDER / "edits" / name)
    )
    assert_same(saved, stored_edits, "edits.safetensors")


@pytest.mark.parametrize("name", RUNS)
def test_resuming_a_finished_run_changes_no_file(name: str, workspace: Path) -> None:
    shutil.copytree(FOLDER / "runs" / name / "whole", workspace / "run")
    before = {path: path.read_bytes() for path in (workspace / "run").rglob("*") if path.is_file()}
    result = written.in_folder(workspace, name, written.model(), resume=True)
    assert {path: path.read_bytes() for path in before} == before
    stored = json.loads((workspace / "run" / "summary.json").read_text(encoding="utf-8"))["metrics"]
    assert {name: result.metrics[name] for name in stored} == stored, "newer versions may only add scores"


@pytest.mark.parametrize("name", RUNS)
def test_the_state_of_a_run_loads_as_edits_and_is_rolled_back(name: str, exact: bool) -> None:
    model = written.model()
    rollback = load_edits(model, FOLDER / "runs" / name / "whole" / "state")
    assert_same(written.logits_of(model), logits_with(name), name, exact=exact)
    assert len(rollback.results) == len(parts_of(FOLDER / "edits" / name)[0]["edits"])
    rollback()
    assert equal_states(written.logits_of(model), written.logits_of(written.model()))
