"""Hyperparameters of any method, from a file or by name: find the class that reads them, replace single values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from easyedit_lifelong import bridge
from easyedit_lifelong.errors import HyperParameterError, PluginError
from easyedit_lifelong.hparams_files import find_hparams, read_hparams_file
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.runs.experiment import Experiment


def hyperparameters_of(experiment: Experiment) -> Any:
    """Return the hyperparameters of an experiment, with its overrides.

    Raises:
        HyperParameterError: they cannot be used.
    """
    given = experiment.hparams
    overrides = {name: value for name, value in experiment.overrides.items() if value is not None}
    keys = {name: "model" if name == "model_name" else name for name in overrides}
    called = {name: experiment.setting(key, f"--{key}") for name, key in keys.items()}
    if isinstance(given, dict):
        # A run's config.yaml may name a model where a program had passed a loaded one: read both together.
        model = {"model_name": overrides.pop("model_name")} if "model_name" in overrides else {}
        hparams = make_hparams({**given, **model}, experiment.setting("hparams", "hparams"), easyedits=True)
    elif isinstance(given, (str, Path)):
        hparams = load_hparams(given, easyedits=True)
    else:
        hparams = given
    return replaced(hparams, overrides, called) if overrides else hparams


def find_method(hparams: Any) -> EditMethod:
    """Return the method that hyperparameters belong to: a registered one, or EasyEdit's own.

    Raises:
        HyperParameterError: there is none.
    """
    method = get_plugins().method_for(hparams) or bridge.easyedit_method_for(hparams)
    if method is None:
        raise HyperParameterError(f"{type(hparams).__name__} belongs to no registered editing method")
    return method


def load_hparams(name_or_path: str | Path, *, easyedits: bool = False) -> Any:
    """Read a hyperparameter file with the class of the method that it names.

    Args:
        name_or_path: see :func:`~easyedit_lifelong.hparams_files.find_hparams`.
        easyedits: whether it may be one of EasyEdit's own methods.

    Raises:
        HyperParameterError: the file can't be used, or names no registered method.
    """
    path = find_hparams(name_or_path)
    return make_hparams(read_hparams_file(path), str(path), easyedits=easyedits)


def make_hparams(values: Mapping[str, Any], source: str, *, easyedits: bool = False) -> Any:
    """Return hyperparameters given by name, in the class of the method that ``alg_name`` names.

    Args:
        values: as a hyperparameter file holds them.
        source: where they come from, for messages.
        easyedits: whether they may be of one of EasyEdit's own methods.

    Raises:
        HyperParameterError: they can't be used, or name no registered method.
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


def replaced(hparams: Any, given: Mapping[str, Any], called: Mapping[str, str]) -> Any:
    """Return hyperparameters with some values replaced.

    Args:
        hparams: the hyperparameters.
        given: the new values by field; None leaves a field as it is.
        called: each field's name where it was given, for messages: ``--bsz``, or ``file.yaml, batch_size``.

    Raises:
        HyperParameterError: there is no such hyperparameter, or a value can't be used.
    """
    given = {name: value for name, value in given.items() if value is not None}
    known = {item.name for item in dataclasses.fields(hparams)}
    for name in given:
        if name not in known:
            raise HyperParameterError(f"{called[name]}: {hparams.alg_name} has no hyperparameter {name!r}")
    try:
        return dataclasses.replace(hparams, **given)
    except HyperParameterError as error:
        values = ", ".join(f"{called[name]} {value}" for name, value in given.items())
        raise HyperParameterError(f"{error} (with {values} in place of the file's)") from error
