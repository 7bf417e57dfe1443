"""Experiment files: all settings of a run in one YAML file. A run's ``config.yaml`` is an experiment file.

They are read strictly: an unknown key or a value of the wrong type is an error that names the file and the key. A
relative path in the file is looked up first in the file's folder, then in the current folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from easyedit_lifelong.data import hub_datasets as hub
from easyedit_lifelong.data.format_files import is_format_file
from easyedit_lifelong.errors import HyperParameterError, did_you_mean
from easyedit_lifelong.evaluation.chat_requests import ChatSettings
from easyedit_lifelong.evaluation.harness import HarnessTasks
from easyedit_lifelong.evaluation.tasks import TASKS
from easyedit_lifelong.hparams_files import read_mapping
from easyedit_lifelong.runs.compared_methods import ComparedMethod, MethodComparison
from easyedit_lifelong.runs.experiment import CONSECUTIVE, LIFELONG, PROTOCOLS, SAMPLES, Data, Experiment
from easyedit_lifelong.runs.schedule import Schedule
from easyedit_lifelong.runs.typed_values import choice_problems, typed_values

_KEYS: Mapping[str, Any] = {
    "schema_version": int,
    "loop": str,
    "model": str | None,
    "hparams": dict | str,
    "methods": list | dict,
    "data": dict,
    "retention": str | list | None,
    "text": str | None,
    "capability": str | bool | None,
    "lm_eval": dict | None,
    "chat": bool | dict | None,
    "carry_over": bool,
    "judge": str | None,
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
    "offset": int | None,
    "edit_with": int | None,
    "sha256": str | None,
}
_SCHEDULE_KEYS: Mapping[str, Any] = {"every": int | None, "at": list[int] | None, "sample": int | None}
_LM_EVAL_KEYS: Mapping[str, Any] = {"tasks": list[str], "path": str | None, "limit": int | None}
_CHAT_KEYS: Mapping[str, Any] = {"system": str | None}
_CONTENT = "an experiment as 'key: value' lines"
_LOOP_OF = {
    "only_errors": LIFELONG,
    "batch_size": CONSECUTIVE,
    "protocol": CONSECUTIVE,
}
"""The keys that only one of the loops has."""


def find_experiment(name_or_path: str | Path) -> Path:
    """Return the path of an experiment file.

    Args:
        name_or_path: a path, or the name of a file that is shipped with this package, without ``.yaml``.

    Raises:
        HyperParameterError: there is no such file; the message suggests the closest name.
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
    top = typed_values(values, _KEYS, "", problems)
    problems += ["methods: a comparison has several runs"] if "methods" in values else []
    experiment = _experiment(file, values, top, ("loop", "hparams", "data"), problems)
    hparams = top["hparams"]
    return replace(experiment, hparams=_resolved_path(hparams, file) if isinstance(hparams, str) else hparams)


def read_comparison(file: Path) -> MethodComparison:
    """Read the experiment file of a comparison, without reading the files that it names.

    Raises:
        HyperParameterError: the file cannot be used; the message names the file and every key that is wrong.
    """
    values = read_mapping(file, _CONTENT)
    problems: list[str] = []
    top = typed_values(values, _KEYS, "", problems)
    for key in ("hparams", "trackers"):
        problems += [f"{key}: a comparison can't have it; 'methods' has the hyperparameters"] if values.get(key) else []
    if top.get("loop") == LIFELONG:
        problems.append(f"loop: a comparison uses the {CONSECUTIVE} loop; batch_size: 1 edits one fact at a time")
    schedule = top.get("schedule") or {}
    if schedule.get("every") or not schedule.get("at"):
        problems.append(
            "schedule: a comparison needs 'at', a list of numbers of edits, and no 'every' (batches differ)"
        )
    methods = _compared_methods(top.get("methods") or [], file, problems)
    return MethodComparison(_experiment(file, values, top, ("loop", "methods", "data"), problems), methods)


def _compared_methods(entries: list[Any] | dict[str, Any], file: Path, problems: list[str]) -> list[ComparedMethod]:
    """Return the methods of a comparison; append what is wrong with them to ``problems``.

    Args:
        entries: the value of ``methods``: texts as on the command line, or a mapping from labels to methods.
        file: the experiment file.
        problems: the list that messages are appended to.
    """
    labelled = entries.items() if isinstance(entries, dict) else [(None, entry) for entry in entries]
    methods = []
    for label, value in labelled:
        if isinstance(value, str):
            method = ComparedMethod.from_text(value) if label is None else ComparedMethod(value, str(label))
            if (file.parent / Path(str(method.hparams)).expanduser()).is_file():
                method = replace(method, hparams=_resolved_path(str(method.hparams), file))
        elif isinstance(value, dict) and label is not None:
            method = ComparedMethod(value, str(label))
        else:
            problems.append(f"methods: {value!r} is no method name, hyperparameter file or mapping of hyperparameters")
            continue
        methods.append(method)
    return methods


def _experiment(
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
    loop = top.get("loop")
    problems += [f"{key}: missing" for key in required if key not in values]
    if isinstance(loop, str):
        problems += choice_problems("loop", loop, (LIFELONG, CONSECUTIVE))
        problems += [
            f"{key}: belongs to the {own} loop" for key, own in _LOOP_OF.items() if top.get(key) and own != loop
        ]
    problems += choice_problems("protocol", top.get("protocol", PROTOCOLS[0]), PROTOCOLS)
    problems += choice_problems("task", top.get("task"), list(TASKS))
    data_values = typed_values(top.get("data") or {}, _DATA_KEYS, "data.", problems)
    data = _data(data_values, file, "data" in top, problems)
    numbers = typed_values(top.get("schedule") or {}, _SCHEDULE_KEYS, "schedule.", problems)
    schedule = Schedule()
    try:
        schedule = Schedule.of(numbers.get("every"), numbers.get("at") or (), numbers.get("sample"))
    except HyperParameterError as error:
        problems.append(str(error).replace("eval_", "schedule.", 1))
    retention = top.get("retention")  # a file, or a list, which must be empty
    if isinstance(retention, list) and retention:
        problems.append("retention: must be a file, [] for none, or left out for the sample data's")
    lm_eval = _lm_eval(top.get("lm_eval"), file, problems)
    chat = _chat(top.get("chat"), problems)
    capability = top.get("capability")  # a file, or whether to use the set of this package
    if problems:
        raise HyperParameterError(f"{file}: " + "; ".join(problems))
    return Experiment(
        loop=top["loop"],
        hparams=None,
        data=data,
        overrides={"model_name": top.get("model"), "device": top.get("device"), "seed": top.get("seed")},
        retention=() if isinstance(retention, list) else _optional_path(retention, file),
        text=_optional_path(top.get("text"), file),
        capability=_optional_path(capability, file) if isinstance(capability, str) else capability or None,
        lm_eval=lm_eval,
        chat=chat,
        carry_over=top.get("carry_over", False),
        judge=top.get("judge"),
        task=top.get("task"),
        only_errors=top.get("only_errors", False),
        skip_unusable=top.get("skip_unusable", False),
        batch_size=top.get("batch_size"),
        protocol=top.get("protocol", PROTOCOLS[0]),
        schedule=schedule,
        trackers=top.get("trackers") or (),
        source=str(file),
    )


def _data(values: Mapping[str, Any], file: Path, is_mapping: bool, problems: list[str]) -> Data:
    """Return the section ``data`` of an experiment file; append what is wrong with it to ``problems``.

    Args:
        values: the section's values.
        file: the experiment file.
        is_mapping: whether the file has the section, and it is a mapping.
        problems: the list that messages are appended to.
    """
    path, sample = values.get("path"), values.get("sample")
    for key, least in (("edits", 1), ("offset", 0), ("edit_with", 0)):
        number = values.get(key)
        if number is not None and number < least:
            problems.append(f"data.{key}: {number} is less than {least}")
    data_format = values.get("format")
    if sample is not None:
        problems += choice_problems("data.sample", sample, list(SAMPLES))
        data_format = data_format or sample
    if is_mapping and (path is None) == (sample is None):
        problems.append(
            "data: needs either 'path' or 'sample'"
            + (" (this run's data came from a program, and no file can hold them)" if "name" in values else "")
        )
    location = str(SAMPLES.get(sample, "")) if sample is not None else _resolved_path(path or "", file)
    return Data(
        location,
        _resolved_path(data_format, file) if data_format and is_format_file(data_format) else data_format,
        values.get("edits"),
        values.get("edit_with") or 0,
        values.get("sha256"),
        values.get("offset") or 0,
    )


def _lm_eval(section: Mapping[str, Any] | None, file: Path, problems: list[str]) -> HarnessTasks | None:
    """Return the section ``lm_eval`` of an experiment file; append what is wrong with it to ``problems``."""
    if section is None:
        return None
    values = typed_values(section, _LM_EVAL_KEYS, "lm_eval.", problems)
    if not values.get("tasks"):
        problems.append("lm_eval: needs 'tasks', a list of names of tasks")
    limit = values.get("limit")
    if limit is not None and limit < 1:
        problems.append(f"lm_eval.limit: {limit} is less than 1")
    return HarnessTasks(tuple(values.get("tasks") or ()), _optional_path(values.get("path"), file), limit)


def _chat(section: Mapping[str, Any] | bool | None, problems: list[str]) -> ChatSettings | None:
    """Return the section ``chat`` of an experiment file; append what is wrong with it to ``problems``.

    Args:
        section: its values; true for the defaults; false or None for prompts as they are.
        problems: the list that messages are appended to.
    """
    if section is None or section is False:
        return None
    values = typed_values({} if section is True else section, _CHAT_KEYS, "chat.", problems)
    return ChatSettings(values.get("system"))


def _optional_path(path: str | None, file: Path) -> str | None:
    """Return a path as :func:`_resolved_path` does; None and an empty text stay as they are."""
    return _resolved_path(path, file) if path else path


def _resolved_path(path: str, file: Path) -> str:
    """Return a path that an experiment file names: in the file's folder if it exists there, else as it is."""
    if hub.is_hub_name(path):
        return path
    beside = file.parent / Path(path).expanduser()
    return str(beside) if beside.exists() else str(Path(path).expanduser())
