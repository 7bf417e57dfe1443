"""Experiment files: all settings of a run in one YAML file. A run's ``config.yaml`` is one.

They are read strictly: an unknown key or a value of another type is an error that names the file and the key, before
anything else happens. Relative paths are searched beside the file, then in the current folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from easyedit_lifelong.data import hub_datasets as hub
from easyedit_lifelong.errors import HyperParameterError, did_you_mean
from easyedit_lifelong.evaluation.tasks import TASKS
from easyedit_lifelong.hparams_files import read_mapping
from easyedit_lifelong.hyperparams import coerce, describe_type
from easyedit_lifelong.runs.experiment import CONSECUTIVE, LIFELONG, PROTOCOLS, SAMPLES, Data, Experiment
from easyedit_lifelong.runs.schedule import Schedule

_KEYS: Mapping[str, Any] = {
    "schema_version": int,
    "loop": str,
    "model": str | None,
    "hparams": dict | str,
    "data": dict,
    "retention": str | list | None,
    "text": str | None,
    "task": str | None,
    "only_errors": bool,
    "skip_unusable": bool,
    "batch_size": int | None,
    "protocol": str,
    "schedule": dict | None,
    "seed": int | None,
    "device": int | str | None,
    "trackers": list[str] | None,
    "recorded": dict,
}
_DATA_KEYS: Mapping[str, Any] = {
    "name": str,
    "path": str,
    "sample": str,
    "format": str | None,
    "edits": int | None,
    "edit_with": int | None,
    "sha256": str | None,
}
_SCHEDULE_KEYS: Mapping[str, Any] = {"every": int | None, "at": list[int] | None, "sample": int | None}
_ONLY_IN = {
    "only_errors": LIFELONG,
    "batch_size": CONSECUTIVE,
    "protocol": CONSECUTIVE,
    "skip_unusable": CONSECUTIVE,
}


def find_experiment(name_or_path: str | Path) -> Path:
    """Return the experiment file that a name or path means: a file, or one that comes with this package.

    Raises:
        HyperParameterError: there is none; the message suggests the closest that there is.
    """
    path = Path(name_or_path).expanduser()
    shipped = {file.stem: file for folder in experiment_folders() for file in sorted(folder.glob("*.yaml"))}
    if path.is_file():
        return path
    if str(name_or_path) in shipped:
        return shipped[str(name_or_path)]
    raise HyperParameterError(
        f"{name_or_path}: no such experiment file.{did_you_mean(path.stem, shipped)} "
        f"Shipped with this package: {', '.join(shipped) or 'none'}."
    )


def experiment_folders() -> list[Path]:
    """Return the folders of the experiment files that come with this package."""
    here = Path(__file__).resolve().parent.parent
    inside = here / "experiments"  # in an installed package; a checkout has them beside it
    folders = [inside] if inside.is_dir() else [here.parent / "experiments"]
    return [folder for folder in folders if folder.is_dir()]


def read_experiment(file: Path) -> Experiment:
    """Read an experiment file. The files that it names needn't be there yet.

    Raises:
        HyperParameterError: it can't be used; the message names the file and every key that is wrong.
    """
    values = read_mapping(file, "an experiment as 'key: value' lines")
    problems: list[str] = []
    top = _checked(values, _KEYS, "", problems)
    loop = top.get("loop")
    problems += [f"{key}: missing" for key in ("loop", "hparams", "data") if key not in values]
    if isinstance(loop, str):
        problems += _choice("loop", loop, (LIFELONG, CONSECUTIVE))
        problems += [
            f"{key}: belongs to the {own} loop" for key, own in _ONLY_IN.items() if top.get(key) and own != loop
        ]
    problems += _choice("protocol", top.get("protocol", PROTOCOLS[0]), PROTOCOLS)
    problems += _choice("task", top.get("task"), list(TASKS))
    data = _data(_checked(top.get("data") or {}, _DATA_KEYS, "data.", problems), file, "data" in top, problems)
    at = _checked(top.get("schedule") or {}, _SCHEDULE_KEYS, "schedule.", problems)
    schedule = Schedule()
    try:
        schedule = Schedule.of(at.get("every"), at.get("at") or (), at.get("sample"))
    except HyperParameterError as error:
        problems.append(str(error).replace("eval_", "schedule.", 1))
    retention = top.get("retention")
    if isinstance(retention, list) and retention:
        problems.append("retention: must be a file, [] for none, or left out for the sample data's")
    if problems:
        raise HyperParameterError(f"{file}: " + "; ".join(problems))
    hparams = top["hparams"]
    return Experiment(
        loop=top["loop"],
        hparams=_placed(hparams, file) if isinstance(hparams, str) else hparams,
        data=data,
        overrides={"model_name": top.get("model"), "device": top.get("device"), "seed": top.get("seed")},
        retention=() if isinstance(retention, list) else retention and _placed(retention, file),
        text=top.get("text") and _placed(top["text"], file),
        task=top.get("task"),
        only_errors=top.get("only_errors", False),
        skip_unusable=top.get("skip_unusable", False),
        batch_size=top.get("batch_size"),
        protocol=top.get("protocol", PROTOCOLS[0]),
        schedule=schedule,
        trackers=top.get("trackers") or (),
        source=str(file),
    )


def _checked(values: Mapping[str, Any], keys: Mapping[str, Any], prefix: str, problems: list[str]) -> dict[str, Any]:
    """Return the values that are of the kind that their key asks for; note the others."""
    good = {}
    for key, value in values.items():
        if key not in keys:
            problems.append(f"unknown key {prefix + str(key)!r}.{did_you_mean(str(key), keys)}")
            continue
        try:
            good[key] = coerce(value, keys[key])
        except (TypeError, ValueError):
            problems.append(f"{prefix}{key}: {value!r} is not {_kind(keys[key])}")
    return good


def _kind(hint: Any) -> str:
    return describe_type(hint).replace("<class 'dict'>", "a mapping").replace("<class 'list'>", "an empty list")


def _choice(key: str, value: Any, choices: Sequence[str]) -> list[str]:
    if value in choices or not isinstance(value, str):
        return []
    return [f"{key}: {value!r} is none of {', '.join(choices)}.{did_you_mean(value, choices)}"]


def _data(values: Mapping[str, Any], file: Path, given: bool, problems: list[str]) -> Data:
    path, sample = values.get("path"), values.get("sample")
    for key, least in (("edits", 1), ("edit_with", 0)):
        number = values.get(key)
        if number is not None and number < least:
            problems.append(f"data.{key}: {number} is less than {least}")
    data_format = values.get("format")
    if sample is not None:
        problems += _choice("data.sample", sample, list(SAMPLES))
        data_format = data_format or sample
    if given and (path is None) == (sample is None):
        problems.append(
            "data: needs either 'path' or 'sample'"
            + (" (this run's data came from a program, and no file can hold them)" if "name" in values else "")
        )
    where = str(SAMPLES.get(sample, "")) if sample is not None else _placed(path or "", file)
    return Data(where, data_format, values.get("edits"), values.get("edit_with") or 0, values.get("sha256"))


def _placed(path: str, file: Path) -> str:
    """Return where a path leads that an experiment file names: beside the file, else from the current folder."""
    if hub.is_name(path):
        return path
    beside = file.parent / Path(path).expanduser()
    return str(beside) if beside.exists() else str(Path(path).expanduser())
