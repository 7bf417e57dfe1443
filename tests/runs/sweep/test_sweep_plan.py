"""Plans of sweeps: their cells, and folders that hold another sweep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from easyedit_lifelong.errors import HyperParameterError, LifelongError, PluginError, RunError
from easyedit_lifelong.runs.sweep.sweep_grid import read_grid
from easyedit_lifelong.runs.sweep.sweep_plan import SweepPlan, plan_sweep, write_settings
from tests.support.command_line import FACTS
from tests.support.sweep_grids import write_grid


def plan(folder: Path, **values: Any) -> SweepPlan:
    """Return the plan of a grid."""
    return plan_sweep(read_grid(write_grid(folder, "tiny", **values)), folder / "out")


def begin(folder: Path, *, cells: bool = True, **values: Any) -> None:
    """Write the settings of a grid's cells, as a sweep does at its beginning; and begin the cells."""
    (folder / "out").mkdir(exist_ok=True)
    begun = plan(folder, **values)
    write_settings(begun)
    for cell in begun.cells if cells else ():
        cell.run.folder.mkdir(parents=True, exist_ok=True)
        (cell.run.folder / "config.yaml").touch()


def test_every_combination_is_a_cell_with_its_own_folder_and_settings(tmp_path: Path) -> None:
    data = {"facts": {"path": "facts.json"}, "later": {"path": "facts.json", "offset": 2}}
    cells = plan(tmp_path, data=data, models={"tiny": "tiny", "other": "org/other"}).cells
    assert len(cells) == 2 * 2 * 2 * 2
    by_name = {cell.name: cell for cell in cells}
    cell = by_name["far/other/later/seed-1"]
    assert cell.run.folder == tmp_path / "out" / "cells" / "far" / "other" / "later" / "seed-1"
    hparams = cell.run.plan.hparams
    assert (hparams.eps, hparams.model_name, hparams.seed, cell.n_requests) == (5.0, "org/other", 1, 1)
    assert by_name["near/tiny/facts/seed-0"].n_requests == 2
    assert not (tmp_path / "out").exists()


def test_each_seed_draws_its_own_records_of_shuffled_data(tmp_path: Path) -> None:
    data = {"facts": {"path": "facts.json", "shuffle": True}}
    config = plan(tmp_path, data=data, edits=1, seeds=[0, 1, 2, 3]).config
    digests = {name: values["recorded"]["requests_sha256"] for name, values in config.items()}
    assert len(set(digests.values())) > 1
    assert all(digests[f"near/tiny/facts/seed-{seed}"] == digests[f"far/tiny/facts/seed-{seed}"] for seed in range(4))
    assert all(values["data"]["shuffle"] is True for values in config.values())


def test_seeds_that_repeat_records_are_noticed(tmp_path: Path) -> None:
    assert plan(tmp_path).repeats_records
    assert not plan(tmp_path, seeds=[3]).repeats_records
    assert not plan(tmp_path, data={"facts": {"path": "facts.json", "shuffle": True}}, seeds=[0, 1]).repeats_records


def test_a_sweep_with_other_settings_is_refused_and_cells_can_be_added(tmp_path: Path) -> None:
    begin(tmp_path, seeds=[0])
    before = (tmp_path / "out" / "sweep.yaml").read_bytes()
    with pytest.raises(
        RunError, match=r"near/tiny/facts/seed-0: schedule\.at was \[1, 2\], is \[2\]\. Other cells .*: 1"
    ):
        begin(tmp_path, schedule={"at": [2]})
    with pytest.raises(RunError, match=r"hparams\.model_name was 'tiny', is 'other'"):
        begin(tmp_path, models={"tiny": "other"})
    file = write_grid(tmp_path, "tiny")
    (tmp_path / "facts.json").write_text(json.dumps([*FACTS[1:], FACTS[0]]))
    with pytest.raises(RunError, match=r"recorded\.requests_sha256 was"):
        write_settings(plan_sweep(read_grid(file), tmp_path / "out"))
    assert (tmp_path / "out" / "sweep.yaml").read_bytes() == before
    begin(tmp_path, seeds=[1, 0], models={"tiny": "tiny", "other": "other"})
    begin(tmp_path, seeds=[0], methods=["near=near.yaml"])
    stored = yaml.safe_load((tmp_path / "out" / "sweep.yaml").read_text())
    assert len(stored["cells"]) == 2 * 2 * 2, "the settings of a cell that the grid no longer names are lost"


def test_cells_that_have_not_begun_can_get_other_settings(tmp_path: Path) -> None:
    begin(tmp_path, cells=False, models={"tiny": "tyni"}, schedule={"at": [2]})
    begin(tmp_path)
    stored = yaml.safe_load((tmp_path / "out" / "sweep.yaml").read_text())["cells"]["near/tiny/facts/seed-0"]
    assert (stored["hparams"]["model_name"], stored["schedule"]["at"]) == ("tiny", [1, 2])


@pytest.mark.parametrize("content", ["cells: 5", "cells: []", "schema_version: 1"])
def test_settings_without_cells_are_refused(tmp_path: Path, content: str) -> None:
    begin(tmp_path)
    file = tmp_path / "out" / "sweep.yaml"
    file.write_text(content)
    with pytest.raises(RunError, match=r"sweep\.yaml: 'cells' is not a mapping .* delete the file"):
        begin(tmp_path)
    assert file.read_text() == content


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ({"methods": ["GRASE"]}, PluginError, r"grid\.yaml, methods GRASE: no editing method of that name"),
        ({"methods": ["near.yaml", "far.yaml"]}, HyperParameterError, r"methods: two methods are called 'GRACE'"),
        ({"methods": {"x": "lost.yaml"}}, HyperParameterError, r"lost\.yaml: no such hyperparameter file"),
        (
            {"methods": ["GRACE"]},
            HyperParameterError,
            r"grid\.yaml, model tiny: no hyperparameters of GRACE ship for it",
        ),
        ({"retention": "held.json"}, LifelongError, r"grid\.yaml, retention: held\.json: no such file"),
        ({"capability": "questions.json"}, LifelongError, r"grid\.yaml, capability: .*questions\.json"),
        (
            {"data": {"late": {"path": "facts.json", "offset": 9}}},
            LifelongError,
            r"data late: .*9 records to skip",
        ),
    ],
)
def test_what_a_cell_cannot_use_is_refused(
    tmp_path: Path, values: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        plan(tmp_path, **values)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_a_run_or_a_comparison_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "compare.yaml").write_text("")
    with pytest.raises(RunError, match=r"holds another run, not a sweep \(compare\.yaml\)"):
        plan(tmp_path)


def test_a_method_without_a_seed_runs_with_seed_0_only(tmp_path: Path) -> None:
    pytest.importorskip("easyeditor")
    grid = {"models": ["smollm2-135m"], "methods": ["GRACE", "EasyEdit/ROME"]}
    assert {cell.run.plan.seed for cell in plan(tmp_path, **grid, seeds=[0]).cells} == {0}
    for seeds in ([5], [0, 5]):
        with pytest.raises(
            HyperParameterError, match=r"grid\.yaml, seeds: EasyEdit-ROME has no seed, .*can't run with seed 5\. Use"
        ):
            plan(tmp_path, **grid, seeds=seeds)
