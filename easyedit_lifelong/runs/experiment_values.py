"""The values of experiment files, and of grids of sweeps: their keys, and the settings that they describe.

A relative path in a file is looked up first in the file's folder, then in the current folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from easyedit_lifelong.data import hub_datasets as hub
from easyedit_lifelong.data.format_files import is_format_file
from easyedit_lifelong.errors import HyperParameterError
from easyedit_lifelong.evaluation.chat_requests import ChatSettings
from easyedit_lifelong.evaluation.harness import HarnessTasks
from easyedit_lifelong.evaluation.tasks import TASKS
from easyedit_lifelong.paths import expanded_path
from easyedit_lifelong.runs.compared_methods import ComparedMethod
from easyedit_lifelong.runs.experiment import CONSECUTIVE, LIFELONG, PROTOCOLS, SAMPLES, Data, Experiment
from easyedit_lifelong.runs.schedule import Schedule
from easyedit_lifelong.runs.typed_values import choice_problems, typed_values

KEYS: Mapping[str, Any] = {
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
    "self_consistency": bool,
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
DATA_KEYS: Mapping[str, Any] = {
    "name": str,
    "path": str,
    "sample": str,
    "format": str | None,
    "edits": int | None,
    "offset": int | None,
    "shuffle": bool | None,
    "edit_with": int | None,
    "sha256": str | None,
}
SCHEDULE_KEYS: Mapping[str, Any] = {"every": int | None, "at": list[int] | None, "sample": int | None}
_LM_EVAL_KEYS: Mapping[str, Any] = {"tasks": list[str], "path": str | None, "limit": int | None}
_CHAT_KEYS: Mapping[str, Any] = {"system": str | None}
_LOOP_OF = {
    "only_errors": LIFELONG,
    "batch_size": CONSECUTIVE,
    "protocol": CONSECUTIVE,
}
"""The keys that only one of the loops has."""


def compared_methods(entries: list[Any] | dict[str, Any], file: Path, problems: list[str]) -> list[ComparedMethod]:
    """Return the methods that a file names; append what is wrong with them to ``problems``.

    Args:
        entries: the value of ``methods``: texts as on the command line, or a mapping from labels to methods.
        file: the file.
        problems: the list that messages are appended to.
    """
    labelled = entries.items() if isinstance(entries, dict) else [(None, entry) for entry in entries]
    methods = []
    for label, value in labelled:
        if isinstance(value, str):
            method = ComparedMethod.from_text(value) if label is None else ComparedMethod(value, str(label))
            path = resolved_path(str(method.hparams), file, "methods")
            if Path(path).is_file():
                method = replace(method, hparams=path)
        elif isinstance(value, dict) and label is not None:
            method = ComparedMethod(value, str(label))
        else:
            problems.append(f"methods: {value!r} is no method name, hyperparameter file or mapping of hyperparameters")
            continue
        methods.append(method)
    return methods


def settings_of(file: Path, top: Mapping[str, Any], data: Data, problems: list[str]) -> Experiment:
    """Return the settings of a file, without hyperparameters.

    Args:
        file: the file.
        top: the values of its keys that have the right type; ``loop`` is one of them.
        data: the data.
        problems: what is wrong with the file so far.

    Raises:
        HyperParameterError: something is wrong with it.
    """
    loop = top.get("loop")
    if isinstance(loop, str):
        problems += choice_problems("loop", loop, (LIFELONG, CONSECUTIVE))
        problems += [
            f"{key}: belongs to the {own} loop" for key, own in _LOOP_OF.items() if top.get(key) and own != loop
        ]
    problems += choice_problems("protocol", top.get("protocol", PROTOCOLS[0]), PROTOCOLS)
    problems += choice_problems("task", top.get("task"), list(TASKS))
    numbers = typed_values(top.get("schedule") or {}, SCHEDULE_KEYS, "schedule.", problems)
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
        retention=() if isinstance(retention, list) else _optional_path(retention, file, "retention"),
        text=_optional_path(top.get("text"), file, "text"),
        capability=(
            _optional_path(capability, file, "capability") if isinstance(capability, str) else capability or None
        ),
        lm_eval=lm_eval,
        chat=chat,
        carry_over=top.get("carry_over", False),
        self_consistency=top.get("self_consistency", False),
        judge=top.get("judge"),
        task=top.get("task"),
        only_errors=top.get("only_errors", False),
        skip_unusable=top.get("skip_unusable", False),
        batch_size=top.get("batch_size"),
        protocol=top.get("protocol", PROTOCOLS[0]),
        schedule=schedule,
        trackers=top.get("trackers") or (),
        source=str(file),
        recorded=top.get("recorded") or {},
    )


def data_of(section: Mapping[str, Any] | None, file: Path, name: str, problems: list[str]) -> Data:
    """Return the data that a section describes; append what is wrong with it to ``problems``.

    Args:
        section: its values; None if there is no such section, or it is no mapping.
        file: the file.
        name: the name of the section, for messages.
        problems: the list that messages are appended to.
    """
    values = typed_values(section or {}, DATA_KEYS, f"{name}.", problems)
    path, sample = values.get("path"), values.get("sample")
    for key, least in (("edits", 1), ("offset", 0), ("edit_with", 0)):
        number = values.get(key)
        if number is not None and number < least:
            problems.append(f"{name}.{key}: {number} is less than {least}")
    data_format = values.get("format")
    if sample is not None:
        problems += choice_problems(f"{name}.sample", sample, list(SAMPLES))
        data_format = data_format or sample
    if section is not None and (path is None) == (sample is None):
        problems.append(
            f"{name}: needs either 'path' or 'sample'"
            + (" (this run's data came from a program, and no file can hold them)" if "name" in values else "")
        )
    location = str(SAMPLES.get(sample, "")) if sample is not None else resolved_path(path or "", file, f"{name}.path")
    if data_format and is_format_file(data_format):
        data_format = resolved_path(data_format, file, f"{name}.format")
    return Data(
        location,
        data_format,
        edits=values.get("edits"),
        edit_with=values.get("edit_with") or 0,
        sha256=values.get("sha256"),
        offset=values.get("offset") or 0,
        shuffle=values.get("shuffle") or False,
    )


def _lm_eval(section: Mapping[str, Any] | None, file: Path, problems: list[str]) -> HarnessTasks | None:
    """Return the settings of the section ``lm_eval``; append what is wrong with it to ``problems``."""
    if section is None:
        return None
    values = typed_values(section, _LM_EVAL_KEYS, "lm_eval.", problems)
    if not values.get("tasks"):
        problems.append("lm_eval: needs 'tasks', a list of names of tasks")
    limit = values.get("limit")
    if limit is not None and limit < 1:
        problems.append(f"lm_eval.limit: {limit} is less than 1")
    return HarnessTasks(
        tuple(values.get("tasks") or ()), _optional_path(values.get("path"), file, "lm_eval.path"), limit
    )


def _chat(section: Mapping[str, Any] | bool | None, problems: list[str]) -> ChatSettings | None:
    """Return the settings of the section ``chat``; append what is wrong with it to ``problems``.

    Args:
        section: its values; true for the defaults; false or None for prompts as they are.
        problems: the list that messages are appended to.
    """
    if section is None or section is False:
        return None
    values = typed_values({} if section is True else section, _CHAT_KEYS, "chat.", problems)
    return ChatSettings(values.get("system"))


def _optional_path(path: str | None, file: Path, key: str) -> str | None:
    """Return a path as :func:`resolved_path` does; None and an empty text stay as they are."""
    return resolved_path(path, file, key) if path else path


def resolved_path(path: str, file: Path, key: str) -> str:
    """Return a path that a file names: in the file's folder if it exists there, else as it is.

    Args:
        path: the path.
        file: the file.
        key: the key of the path in the file, for messages.

    Raises:
        HyperParameterError: it is in the home folder of an unknown user.
    """
    if hub.is_hub_name(path):
        return path
    try:
        expanded = expanded_path(path, HyperParameterError)
    except HyperParameterError as error:
        raise HyperParameterError(f"{file}: {key}: {error}") from error
    beside = file.parent / expanded
    return str(beside if beside.exists() else expanded)
