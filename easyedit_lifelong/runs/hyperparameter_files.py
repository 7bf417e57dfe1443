"""Hyperparameters of any method: make them from a file or a mapping, and replace single values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from easyedit_lifelong import bridge
from easyedit_lifelong.errors import (
    HyperParameterError,
    LifelongError,
    PluginError,
    UnusableMethodError,
    did_you_mean,
)
from easyedit_lifelong.hparams_files import find_hparams, read_hparams_file, shipped_hparams_folders
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.runs.experiment import Experiment


def hyperparameters_of(experiment: Experiment) -> Any:
    """Return the hyperparameters of an experiment, with its overrides.

    Raises:
        HyperParameterError: they cannot be used.
    """
    hparams = experiment.hparams
    overrides = {name: value for name, value in experiment.overrides.items() if value is not None}
    keys = {name: "model" if name == "model_name" else name for name in overrides}
    names_in_messages = {name: experiment.setting(key, f"--{key}") for name, key in keys.items()}
    if isinstance(hparams, dict):
        # The config.yaml of a run of a loaded model has no model_name among its hparams, but the class needs it: add
        # the override before the class reads them.
        model = {"model_name": overrides.pop("model_name")} if "model_name" in overrides else {}
        hparams = make_hparams({**hparams, **model}, experiment.setting("hparams", "hparams"), easyedits=True)
    elif isinstance(hparams, (str, Path)):
        hparams = load_hparams(hparams, easyedits=True)
    hparams = bridge.unambiguous_hparams(hparams)
    return replace_hparams(hparams, overrides, names_in_messages) if overrides else hparams


def find_method(hparams: Any) -> EditMethod:
    """Return the method that hyperparameters belong to: a registered method, or one of EasyEdit's own.

    Raises:
        HyperParameterError: they belong to no method.
    """
    method = get_plugins().method_for(hparams) or bridge.easyedit_method_for(hparams)
    if method is None:
        raise HyperParameterError(f"{type(hparams).__name__} belongs to no registered editing method")
    return method


def registered_name(name: str) -> str:
    """Return the name of the registered method that equals a name without regard to case, or the name itself."""
    names = {method.casefold(): method for method in get_plugins().methods.names()}
    return names.get(name.casefold(), name)


def check_method_name(name: str, setting: str = "--method") -> None:
    """Check that a method is registered, or is one of EasyEdit's own.

    Args:
        name: the method's name.
        setting: where the name comes from, for messages.

    Raises:
        PluginError: there is no such method.
    """
    known = get_plugins().methods.names()
    if name in known:
        return
    try:
        bridge.easyedit_method(name)
    except LifelongError as error:
        # The error says why EasyEdit's method of that name can't run, or suggests a name itself: one is enough.
        suggestion = "" if isinstance(error, UnusableMethodError) else did_you_mean(name, known)
        further = suggestion or f" {error}"
        raise PluginError(
            f"{setting} {name}: no editing method of that name is registered ({', '.join(known)}).{further}"
        ) from error


def shipped_hparams(method: str, model: str, setting: str = "--model", advice: str = "name it with --hparams") -> Path:
    """Return the hyperparameter file shipped for a method and a model.

    Args:
        method: the method's name.
        model: the model's name or folder. Only the last part is compared, without regard to case:
            ``EleutherAI/gpt-j-6B`` and ``gpt-j-6b`` are the same.
        setting: where the model's name comes from, for messages.
        advice: what to do with a file of one's own, for messages.

    Raises:
        HyperParameterError: there is none; the message lists the models with a file.
    """
    # The folders are read in reverse order, so that the first one has precedence.
    files = {
        file.stem: file
        for folder in shipped_hparams_folders()
        for name in reversed(bridge.hparams_folders(method))
        for file in sorted((folder / name).glob("*.yaml"))
    }
    short_name = model.rstrip("/").rpartition("/")[2].casefold()
    for stem, file in files.items():
        if stem.casefold() == short_name:
            return file
    raise HyperParameterError(
        f"{setting} {model}: no hyperparameters of {method} ship for it ({', '.join(files) or 'none at all'})."
        f"{did_you_mean(short_name, files)} Write a file and {advice}."
    )


def load_hparams(name_or_path: str | Path, *, easyedits: bool = False, method: str | None = None) -> Any:
    """Read a hyperparameter file as an object of its method's class.

    Args:
        name_or_path: see :func:`~easyedit_lifelong.hparams_files.find_hparams`.
        easyedits: whether the file may name one of EasyEdit's own methods.
        method: the method that the file must be for; None for any. With ``EasyEdit/NAME``, a file of EasyEdit with
            ``alg_name: NAME`` is read for EasyEdit's method even if one of ours has this name.

    Raises:
        HyperParameterError: the file can't be used, names no registered method, or is for another method.
    """
    path = find_hparams(name_or_path)
    values = read_hparams_file(path)
    name = values.get("alg_name")
    if method is not None and isinstance(name, str):
        if method != name and method == bridge.easyedits_full_name(name):
            values["alg_name"] = method
        elif bridge.full_name(name) != bridge.full_name(method):
            raise HyperParameterError(f"--method {method}: {name_or_path} is for {name!r}")
    return make_hparams(values, str(path), easyedits=easyedits)


def make_hparams(values: Mapping[str, Any], source: str, *, easyedits: bool = False) -> Any:
    """Return hyperparameters as an object of the class of the method that ``alg_name`` names.

    Args:
        values: the content of a hyperparameter file.
        source: where the values come from, for messages.
        easyedits: whether ``alg_name`` may name one of EasyEdit's own methods.

    Raises:
        HyperParameterError: a value can't be used, or ``alg_name`` names no registered method.
    """
    name = values.get("alg_name")
    if not isinstance(name, str):
        raise HyperParameterError(f"{source}: alg_name: missing; it says which method these are for")
    methods = get_plugins().methods
    try:
        if easyedits and name not in methods:
            return bridge.easyedit_hparams(values, name, source)
        method = methods.get(name)
    except PluginError as error:
        raise HyperParameterError(f"{source}: alg_name: {error}") from error
    return method.hparams_class.from_values(values, source)  # type: ignore[attr-defined]


def replace_hparams(hparams: Any, overrides: Mapping[str, Any], names_in_messages: Mapping[str, str]) -> Any:
    """Return hyperparameters with some values replaced.

    Args:
        hparams: the hyperparameters.
        overrides: the new values by field; None leaves a field as it is.
        names_in_messages: the name of each field in messages: ``--bsz``, or ``file.yaml, batch_size``.

    Raises:
        HyperParameterError: a hyperparameter does not exist, or a value can't be used.
    """
    overrides = {name: value for name, value in overrides.items() if value is not None}
    known = {item.name for item in dataclasses.fields(hparams)}
    for name in overrides:
        if name not in known:
            raise HyperParameterError(f"{names_in_messages[name]}: {hparams.alg_name} has no hyperparameter {name!r}")
    try:
        return dataclasses.replace(hparams, **overrides)
    except HyperParameterError as error:
        values = ", ".join(f"{names_in_messages[name]} {value}" for name, value in overrides.items())
        raise HyperParameterError(f"{error} (with {values} in place of the file's)") from error
