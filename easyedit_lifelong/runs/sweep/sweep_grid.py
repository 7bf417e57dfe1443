"""Grids: which methods, models, data and seeds a sweep combines, in one YAML file.

A grid is read strictly, as an experiment file is, and has most of its keys.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyedit_lifelong.data import hub_datasets as hub
from easyedit_lifelong.hparams_files import read_mapping
from easyedit_lifelong.models.packaged_models import PACKAGED_MODELS
from easyedit_lifelong.runs.compared_methods import LABEL, ComparedMethod
from easyedit_lifelong.runs.experiment import CONSECUTIVE, Data, Experiment
from easyedit_lifelong.runs.experiment_files import experiment_folders, find_shipped_file
from easyedit_lifelong.runs.experiment_values import KEYS, compared_methods, data_of, settings_of
from easyedit_lifelong.runs.sweep.ray_resources import RAY_KEYS, RayResources, ray_resources
from easyedit_lifelong.runs.typed_values import typed_values

_NOT_IN_GRIDS = ("schema_version", "model", "hparams", "data", "seed", "trackers", "recorded")
GRID_KEYS: Mapping[str, Any] = {
    **{key: hint for key, hint in KEYS.items() if key not in _NOT_IN_GRIDS},
    "models": list | dict,
    "data": dict,
    "seeds": list[int],
    "edits": int | None,
    "ray": dict | None,
    "slurm": dict | None,
}
_MODEL = "{model}"
"""Stands for a model's label in the methods of a grid."""
_REPORT_FILES = ("report.html", "table.md", "table.tex", "table.csv", "table.json")
"""The files beside the folders of models in the folder of the report, so that no model can have these labels."""


@dataclass(frozen=True)
class Grid:
    """The content of a grid.

    Attributes:
        file: the file.
        settings: what all cells share; with neither hyperparameters nor a seed, and with the first of the data.
        methods: the methods, by the label of the model.
        models: names or paths of models, by label.
        data: the data, by label.
        seeds: the seeds.
        ray: what a cell gets on a Ray cluster.
        slurm: parameters of Slurm jobs, as submitit names them.
    """

    file: Path
    settings: Experiment
    methods: Mapping[str, Sequence[ComparedMethod]]
    models: Mapping[str, str]
    data: Mapping[str, Data]
    seeds: Sequence[int]
    ray: RayResources
    slurm: Mapping[str, Any]


def find_grid(name_or_path: str | Path) -> Path:
    """Return the path of a grid.

    Args:
        name_or_path: a path, or the name of a grid that is shipped with this package, without ``.yaml``.

    Raises:
        HyperParameterError: there is no such file; the message suggests the closest name.
    """
    return find_shipped_file(name_or_path, [folder / "sweeps" for folder in experiment_folders()], "grid")


def read_grid(file: Path) -> Grid:
    """Read a grid, without reading the files that it names.

    Raises:
        HyperParameterError: the file can't be used; the message names it and every key that is wrong.
    """
    values = read_mapping(file, "a grid as 'key: value' lines")
    problems: list[str] = []
    top = typed_values(values, GRID_KEYS, "", problems)
    problems += [f"{key}: missing" for key in ("methods", "models", "data") if key not in values]
    problems += [f"{key}: is empty" for key in ("methods", "models", "data", "seeds") if top.get(key) in ([], {})]
    models = _models(top.get("models", []), file, problems)
    data = _data(top, file, problems)
    seeds = top.get("seeds", [0])
    problems += [f"seeds: {seed} is less than 0" for seed in seeds if seed < 0]
    problems += [f"seeds: {seed} is there twice" for seed in sorted(set(seeds)) if seeds.count(seed) > 1]
    _check_placeholders(top.get("methods", []), problems)
    methods = {
        label: compared_methods(_for_model(top.get("methods", []), label), file, problems if number == 0 else [])
        for number, label in enumerate(models)
    }
    ray = ray_resources(typed_values(top.get("ray") or {}, RAY_KEYS, "ray.", problems), problems)
    shared = {**top, "loop": top.get("loop", CONSECUTIVE)}
    settings = settings_of(file, shared, next(iter(data.values()), Data("")), problems)
    return Grid(file, settings, methods, models, data, seeds, ray, top.get("slurm") or {})


def _models(entries: list[Any] | Mapping[Any, Any], file: Path, problems: list[str]) -> dict[str, str]:
    """Return the models by label, which for a list is the last part of the name; append problems to a list."""
    models: dict[str, str] = {}
    labelled = entries.items() if isinstance(entries, Mapping) else [(None, entry) for entry in entries]
    for given, name in labelled:
        if not isinstance(name, str) or not name:
            problems.append(f"models: {name!r} is not the name or the folder of a model")
            continue
        label = str(given) if given is not None else name.rstrip("/").rpartition("/")[2]
        _check_label("models", label, models, problems)
        if label.casefold() in _REPORT_FILES:
            problems.append(f"models: {label!r} can't be a label: this is where the results are written")
        models[label] = _resolved_model(name, file)
    return models


def _resolved_model(name: str, file: Path) -> str:
    """Return a model's name; if it is a folder beside the grid, the absolute path, which is valid from any folder."""
    beside = os.path.abspath(file.parent / name)  # keeps links, whose last part may select the shipped hyperparameters
    return beside if name not in PACKAGED_MODELS and Path(beside).exists() else name


def _data(top: Mapping[str, Any], file: Path, problems: list[str]) -> dict[str, Data]:
    """Return the data by label; append problems to a list."""
    data: dict[str, Data] = {}
    edits = top.get("edits")
    if edits is not None and edits < 1:
        problems.append(f"edits: {edits} is less than 1")
    for key, section in top.get("data", {}).items():
        label, name = str(key), f"data.{key}"
        _check_label("data", label, data, problems)
        if not isinstance(section, dict):
            problems.append(f"{name}: {section!r} is not a mapping")
            continue
        data[label] = data_of({"edits": edits, **section}, file, name, problems)
        path = data[label].path
        if "path" in section and not hub.is_hub_name(path) and not Path(path).is_file():
            problems.append(f"{name}.path: {path}: no such file, neither beside the grid nor in the current folder")
    return data


def _check_label(key: str, label: str, others: Mapping[str, Any], problems: list[str]) -> None:
    """Append a problem if a label can't be the name of a folder, or names the folder of another label."""
    if not LABEL.fullmatch(label):
        problems.append(f"{key}: {label!r} can't be a label, which names a folder: use letters, digits and . _ + -")
    if label.casefold() in {other.casefold() for other in others}:
        problems.append(f"{key}: {label!r} is there twice. Give labels: a mapping in place of a list.")


def _check_placeholders(methods: Any, problems: list[str]) -> None:
    """Append a problem for each placeholder in the entries of ``methods`` other than ``{model}``."""
    for entry in methods.values() if isinstance(methods, dict) else methods:
        unknown = set(re.findall(r"\{[^{}]*\}", entry)) - {_MODEL} if isinstance(entry, str) else set()
        problems += [f"methods: {entry!r}: only {_MODEL} is replaced, not {name}" for name in sorted(unknown)]


def _for_model(methods: Any, label: str) -> Any:
    """Return the value of ``methods`` with a model's label in place of ``{model}``."""
    if isinstance(methods, str):
        return methods.replace(_MODEL, label)
    if isinstance(methods, list):
        return [_for_model(method, label) for method in methods]
    if isinstance(methods, dict):  # hyperparameters, which are mappings, stay as they are
        return {key: value if isinstance(value, dict) else _for_model(value, label) for key, value in methods.items()}
    return methods
