"""Grids: what they may contain, and messages about what is wrong in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong.errors import HyperParameterError
from easyedit_lifelong.hparams_files import find_hparams
from easyedit_lifelong.runs.experiment import CONSECUTIVE
from easyedit_lifelong.runs.sweep.ray_resources import RayResources
from easyedit_lifelong.runs.sweep.sweep_grid import find_grid, read_grid
from tests.support.sweep_grids import write_grid


def test_a_grid_has_the_settings_of_all_cells(tmp_path: Path) -> None:
    data = {"facts": {"path": "facts.json", "offset": 1}, "zsre": {"sample": "zsre", "edits": 5}}
    file = write_grid(tmp_path, "models/tiny", data=data, batch_size=2, ray={"cpus": 2}, slurm={"time": 5})
    grid = read_grid(file)
    assert grid.models == {"tiny": "models/tiny"}
    assert [(label, found.offset, found.edits) for label, found in grid.data.items()] == [
        ("facts", 1, 2),
        ("zsre", 0, 5),
    ]
    assert grid.data["facts"].path == str(tmp_path / "facts.json"), "a path beside the grid is not found"
    assert [(method.label, method.hparams) for method in grid.methods["tiny"]] == [
        ("near", str(tmp_path / "near.yaml")),
        ("far", str(tmp_path / "far.yaml")),
    ]
    settings = grid.settings
    assert (settings.loop, settings.batch_size, settings.schedule.at, settings.retention) == (
        CONSECUTIVE,
        2,
        (1, 2),
        (),
    )
    assert (grid.seeds, grid.ray, grid.slurm) == ([0, 1], RayResources(cpus=2), {"time": 5})


def test_a_list_of_models_has_their_last_names_as_labels_and_methods_can_name_them(tmp_path: Path) -> None:
    methods = ["GRACE", "subject=GRACE/{model}-subject", "mine={model}.yaml"]
    (tmp_path / "gpt2-xl.yaml").write_text("")
    grid = read_grid(write_grid(tmp_path, "", models=["openai-community/gpt2-xl", "smollm2-135m"], methods=methods))
    assert grid.models == {"gpt2-xl": "openai-community/gpt2-xl", "smollm2-135m": "smollm2-135m"}
    named = {label: [method.hparams for method in of_model] for label, of_model in grid.methods.items()}
    assert named == {
        "gpt2-xl": ["GRACE", "GRACE/gpt2-xl-subject", str(tmp_path / "gpt2-xl.yaml")],
        "smollm2-135m": ["GRACE", "GRACE/smollm2-135m-subject", "smollm2-135m.yaml"],
    }


def test_a_model_is_searched_for_beside_the_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path is the same from any folder, since cells that have begun are compared with it."""
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "grids" / "checkpoints").mkdir(parents=True)
    (tmp_path / "grids" / "checkpoints" / "tiny").symlink_to(tmp_path / "snapshot")  # the link's name has the label
    (tmp_path / "grids" / "smollm2-135m").mkdir()
    models = ["checkpoints/tiny", "smollm2-135m", "org/other"]
    file = write_grid(tmp_path / "grids", "", models=models)
    monkeypatch.chdir(tmp_path)
    for found in (file, file.relative_to(tmp_path)):
        assert list(read_grid(found).models.values()) == [
            str(tmp_path / "grids" / "checkpoints" / "tiny"),
            "smollm2-135m",
            "org/other",
        ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"methods": None, "data": None}, "methods: missing; data: missing"),
        ({"seeds": [], "models": []}, "models: is empty; seeds: is empty"),
        ({"seed": 1}, "unknown key 'seed'. Did you mean 'seeds'?"),
        ({"seeds": [0, 2, 0, -1]}, "seeds: -1 is less than 0; seeds: 0 is there twice"),
        ({"seeds": 3}, "seeds: 3 is not a list of whole numbers"),
        ({"models": 5}, "models: 5 is not"),
        ({"models": [5]}, "models: 5 is not the name or the folder of a model"),
        ({"models": ["a/x", "b/X"]}, "models: 'X' is there twice. Give labels"),
        ({"models": {"a/b": "m"}}, "models: 'a/b' can't be a label, which names a folder"),
        ({"models": ["org/Report.html"]}, "models: 'Report.html' can't be a label: this is where the results are"),
        ({"models": {"table.md": "m"}}, "models: 'table.md' can't be a label: this is where the results are written"),
        ({"methods": [5]}, "methods: 5 is no method name"),
        ({"methods": ["GRACE/{modle}"]}, "methods: 'GRACE/{modle}': only {model} is replaced, not {modle}"),
        ({"methods": {"mine": "{model}-{seed}.yaml"}}, "methods: '{model}-{seed}.yaml': only {model} is replaced"),
        (
            {"data": {"facts": {"path": "fact.json"}}},
            "data.facts.path: fact.json: no such file, neither beside the grid",
        ),
        ({"data": {"facts": {"pth": "facts.json"}}}, "unknown key 'data.facts.pth'. Did you mean 'path'?"),
        ({"data": {"facts": "facts.json"}}, "data.facts: 'facts.json' is not a mapping"),
        ({"data": {"facts": {"offset": 3}}}, "data.facts: needs either 'path' or 'sample'"),
        ({"data": {"facts": {"sample": "zsre", "edits": 0}}}, "data.facts.edits: 0 is less than 1"),
        ({"edits": 0}, "edits: 0 is less than 1"),
        ({"data": {"../x": {"sample": "zsre"}}}, "data: '../x' can't be a label"),
        ({"ray": {"cpu": 1}}, "unknown key 'ray.cpu'. Did you mean 'cpus'?"),
        ({"ray": {"gpus": -1}}, "ray.gpus: -1 is less than 0"),
        ({"ray": {"cpus": float("nan")}}, "ray.cpus: nan is not a finite number"),
        ({"ray": {"gpus": float("inf")}}, "ray.gpus: inf is not a finite number"),
        ({"ray": {"cpus": 1e-5}}, "ray.cpus: 1e-05 is less than 0.0001"),
        ({"ray": {"gpus": 1.5}}, "ray.gpus: 1.5 is more than one GPU, and not a whole number"),
        ({"loop": "lifelong", "batch_size": 2}, "batch_size: belongs to the consecutive loop"),
        ({"schedule": {"evry": 2}}, "unknown key 'schedule.evry'. Did you mean 'every'?"),
        ({"trackers": ["csv"]}, "unknown key 'trackers'"),
    ],
)
def test_a_mistake_is_refused_with_the_file_and_the_key(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    file = write_grid(tmp_path, "tiny", **values)
    with pytest.raises(HyperParameterError, match=re.escape(message)) as caught:
        read_grid(file)
    assert str(caught.value).startswith(f"{file}: ")


def test_resources_that_ray_can_give_are_accepted(tmp_path: Path) -> None:
    for cpus, gpus in ((1.5, 2.0), (0.0, 0.0), (1e-4, 0.25)):
        grid = read_grid(write_grid(tmp_path, "tiny", ray={"cpus": cpus, "gpus": gpus}))
        assert grid.ray == RayResources(cpus=cpus, gpus=gpus)


def test_shipped_grids_can_be_read_and_name_shipped_hyperparameters() -> None:
    grid = read_grid(find_grid("three-methods-smollm2-135m"))
    assert len(grid.methods["smollm2-135m"]) == 3
    for method in grid.methods["smollm2-135m"]:
        assert find_hparams(f"{method.hparams}/smollm2-135m").is_file()
    with pytest.raises(HyperParameterError, match=r"three-method: no such grid\. Did you mean 'three-methods-smollm2"):
        find_grid("three-method")
