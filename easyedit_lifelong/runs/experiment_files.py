"""Experiment files: all settings of a run in one YAML file. A run's ``config.yaml`` is an experiment file.

They are read strictly: an unknown key or a value of the wrong type is an error that names the file and the key. A
relative path in the file is looked up first in the file's folder, then in the current folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from easyedit_lifelong.errors import HyperParameterError, did_you_mean
from easyedit_lifelong.hparams_files import read_mapping
from easyedit_lifelong.paths import expanded_path
from easyedit_lifelong.runs.compared_methods import MethodComparison
from easyedit_lifelong.runs.experiment import CONSECUTIVE, LIFELONG, Experiment
from easyedit_lifelong.runs.experiment_values import KEYS, compared_methods, data_of, resolved_path, settings_of
from easyedit_lifelong.runs.typed_values import typed_values

_CONTENT = "an experiment as 'key: value' lines"


def find_experiment(name_or_path: str | Path) -> Path:
    """Return the path of an experiment file.

    Args:
        name_or_path: a path, or the name of a file that is shipped with this package, without ``.yaml``.

    Raises:
        HyperParameterError: there is no such file; the message suggests the closest name.
    """
    return find_shipped_file(name_or_path, experiment_folders(), "experiment file")


def find_shipped_file(name_or_path: str | Path, folders: Sequence[Path], kind: str) -> Path:
    """Return the path of a YAML file.

    Args:
        name_or_path: a path, or the name of a file in one of the folders, without ``.yaml``.
        folders: folders of files that are shipped with this package.
        kind: what the file is, for messages.

    Raises:
        HyperParameterError: there is no such file; the message suggests the closest name.
    """
    path = expanded_path(name_or_path, HyperParameterError)
    shipped = {file.stem: file for folder in folders for file in sorted(folder.glob("*.yaml"))}
    if path.is_file():
        return path
    if str(name_or_path) in shipped:
        return shipped[str(name_or_path)]
    raise HyperParameterError(
        f"{name_or_path}: no such {kind}.{did_you_mean(path.stem, shipped)} "
        f"Shipped with this package: {', '.join(shipped) or 'none'}."
    )


def experiment_folders() -> list[Path]:
    """Return the existing folders of the experiment files that are shipped with this package."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "experiments"  # an installed package contains the folder; a checkout has it beside the package
    folders = [inside] if inside.is_dir() else [package.parent / "experiments"]
    return [folder for folder in folders if folder.is_dir()]


def is_comparison(file: Path) -> bool:
    """Return whether an experiment file describes a comparison of methods.

    Raises:
        HyperParameterError: the file cannot be read.
    """
    return "methods" in read_mapping(file, _CONTENT)


def read_experiment(file: Path) -> Experiment:
    """Read the experiment file of one run, without reading the files that it names.

    Raises:
        HyperParameterError: the file cannot be used; the message names the file and every key that is wrong.
    """
    values = read_mapping(file, _CONTENT)
    problems: list[str] = []
    top = typed_values(values, KEYS, "", problems)
    problems += ["methods: a comparison has several runs"] if "methods" in values else []
    experiment = _settings(file, values, top, ("loop", "hparams", "data"), problems)
    hparams = top["hparams"]
    return replace(experiment, hparams=resolved_path(hparams, file, "hparams") if isinstance(hparams, str) else hparams)


def read_comparison(file: Path) -> MethodComparison:
    """Read the experiment file of a comparison, without reading the files that it names.

    Raises:
        HyperParameterError: the file cannot be used; the message names the file and every key that is wrong.
    """
    values = read_mapping(file, _CONTENT)
    problems: list[str] = []
    top = typed_values(values, KEYS, "", problems)
    for key in ("hparams", "trackers"):
        problems += [f"{key}: a comparison can't have it; 'methods' has the hyperparameters"] if values.get(key) else []
    if top.get("loop") == LIFELONG:
        problems.append(f"loop: a comparison uses the {CONSECUTIVE} loop; batch_size: 1 edits one fact at a time")
    schedule = top.get("schedule") or {}
    if schedule.get("every") or not schedule.get("at"):
        problems.append(
            "schedule: a comparison needs 'at', a list of numbers of edits, and no 'every' (batches differ)"
        )
    methods = compared_methods(top.get("methods") or [], file, problems)
    return MethodComparison(_settings(file, values, top, ("loop", "methods", "data"), problems), methods)


def _settings(
    file: Path, values: Mapping[str, Any], top: Mapping[str, Any], required: Sequence[str], problems: list[str]
) -> Experiment:
    """Return the settings of an experiment file without hyperparameters.

    Args:
        file: the file.
        values: its content.
        top: the values of its keys that have the right type.
        required: the keys that it must have.
        problems: what is wrong with it so far.

    Raises:
        HyperParameterError: something is wrong with it.
    """
    problems += [f"{key}: missing" for key in required if key not in values]
    return settings_of(file, top, data_of(top.get("data"), file, "data", problems), problems)
