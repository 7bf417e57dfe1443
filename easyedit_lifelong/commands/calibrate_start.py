"""What a calibration begins with: a hyperparameter file, or the values of a method that ship for another model."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyedit_lifelong.errors import HyperParameterError
from easyedit_lifelong.hparams_files import find_hparams, read_hparams_file
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.runs.adapted_hparams import adapted_hparams, small_template_file, template_file
from easyedit_lifelong.runs.hyperparameter_files import (
    check_method_name,
    find_method,
    load_hparams,
    make_hparams,
    registered_name,
    replace_hparams,
    shipped_hparams,
)


@dataclass(frozen=True)
class CalibrationStart:
    """The hyperparameters that a calibration begins with.

    Attributes:
        method: their method.
        hparams: the hyperparameters, with what the command line replaces.
        values: the content of the hyperparameter file, with what the command line replaces.
        other_model: whether the file is for another model than the one to edit.
        replacements: what the command line replaces.
    """

    method: EditMethod
    hparams: Any
    values: dict[str, Any]
    other_model: bool
    replacements: dict[str, Any]


def calibration_start(arguments: argparse.Namespace) -> CalibrationStart:
    """Return what ``--method``, ``--hparams`` and ``--model`` ask to begin with.

    With ``--method`` alone, this is the file that ships for the model, or else one for another model.

    Raises:
        HyperParameterError: the arguments name no hyperparameters, or they cannot be used.
        PluginError: there is no such method.
    """
    name = None if arguments.method is None else registered_name(arguments.method)
    if name is not None:
        check_method_name(name)
    path = find_hparams(arguments.hparams) if arguments.hparams is not None else _file_for(name, arguments.model)
    hparams = load_hparams(path, method=name)
    given = {"model_name": arguments.model, "device": arguments.device, "false_fire_rate": arguments.false_fire_rate}
    replacements = {field: value for field, value in given.items() if value is not None}
    options = {"model_name": "--model", "device": "--device", "false_fire_rate": "--false-fire-rate"}
    return CalibrationStart(
        find_method(hparams),
        replace_hparams(hparams, replacements, options),
        read_hparams_file(path) | replacements,
        arguments.model not in (None, hparams.model_name),
        replacements,
    )


def adapted_start(start: CalibrationStart, model: Any, arguments: argparse.Namespace) -> CalibrationStart:
    """Return the same start with the modules and layers of the model, if its file is for another model.

    Raises:
        HyperParameterError: the adapted values cannot be used.
        ModelError: the parts of the model aren't found.
    """
    if not start.other_model:
        return start
    file = template_file(start.method.name, model, "--method for") if arguments.hparams is None else None
    values = start.values if file is None else read_hparams_file(file)
    values = {**adapted_hparams(values, model, "calibrate"), **start.replacements}
    hparams = make_hparams(values, f"the hyperparameters for {arguments.model}")
    return CalibrationStart(start.method, hparams, values, False, start.replacements)


def _file_for(method: str | None, model: str | None) -> Path:
    """Return the file of a method that ships for a model, or else for the small model.

    Raises:
        HyperParameterError: the method or the model is not named, or the method has no file at all.
    """
    if method is None:
        raise HyperParameterError(
            "name a hyperparameter file with --hparams, or a method and a model with --method and --model"
        )
    if model is None:
        raise HyperParameterError(
            f"--method {method}: name the model with --model, or a hyperparameter file with --hparams"
        )
    try:
        return shipped_hparams(method, model)
    except HyperParameterError:
        return small_template_file(method, "--method for")
