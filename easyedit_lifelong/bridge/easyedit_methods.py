"""Run EasyEdit's own methods that rewrite weights (MEMIT, ROME, FT, …) in this package's loops, as baselines.

No file of EasyEdit is changed; :mod:`easyedit_lifelong.bridge.method_context` sets up the environment of the methods.
"""

from __future__ import annotations

import copy as copying
import dataclasses
import importlib
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from easyedit_lifelong.bridge.easyedit_location import PACKAGE, import_easyedit
from easyedit_lifelong.bridge.method_context import device_name, method_context, model_state_of
from easyedit_lifelong.bridge.registration import is_batchable
from easyedit_lifelong.bridge.requirements import check_names, check_subjects, second_moments
from easyedit_lifelong.bridge.weights import EditedWeights, copy_values, edited_weights
from easyedit_lifelong.data.request import EditRequest, as_requests
from easyedit_lifelong.data.subjects import find_subject
from easyedit_lifelong.errors import EditError, HyperParameterError, LifelongError, PluginError, did_you_mean
from easyedit_lifelong.hparams_files import read_hparams_file
from easyedit_lifelong.hyperparams import convert_value, describe_type, unknown_and_missing
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.shared.rollback import Rollback
from easyedit_lifelong.snapshots import Snapshots

_REQUIRED = ("layers", "rewrite_module_tmp")


def easyedit_method(name: str) -> EditMethod:
    """Return one of EasyEdit's own methods as an :class:`EditMethod`.

    Args:
        name: the name in EasyEdit of a method that rewrites weights, such as ``MEMIT``.

    Raises:
        EasyEditMissingError: EasyEdit isn't installed.
        PluginError: EasyEdit has no such method, or it doesn't rewrite weights.
    """
    easyeditor = import_easyedit()
    algorithms = importlib.import_module(f"{PACKAGE}.util.alg_dict").ALG_DICT
    if name not in algorithms:
        raise PluginError(f"EasyEdit has no method {name!r}.{did_you_mean(name, algorithms)}")
    classes = {attribute.lower(): attribute for attribute in dir(easyeditor)}
    hparams_class: Any = getattr(easyeditor, classes.get(f"{name.lower()}hyperparams", ""), None)
    is_dataclass = isinstance(hparams_class, type) and dataclasses.is_dataclass(hparams_class)
    if not is_dataclass or not {item.name for item in dataclasses.fields(hparams_class)}.issuperset(_REQUIRED):
        raise PluginError(
            f"EasyEdit's own {name} can't run in this package's loops: only methods that rewrite weights can "
            "(MEMIT, ROME, FT, …), because their edits can be rolled back and saved."
        )
    return EditMethod(
        name,
        hparams_class,
        _apply_function(name, algorithms[name]),
        batchable=is_batchable(name),
        check=check_names,
        check_requests=check_subjects,
        state=Snapshots(EditedWeights()),
    )


def easyedit_method_for(hparams: Any) -> EditMethod | None:
    """Return EasyEdit's own method for hyperparameters of EasyEdit's classes, else None."""
    if type(hparams).__module__.partition(".")[0] != PACKAGE:
        return None
    return easyedit_method(str(getattr(hparams, "alg_name", "")))


def read_easyedit_hparams(path: Path, name: str) -> Any:
    """Read a hyperparameter file of one of EasyEdit's own methods, and check it like :func:`easyedit_hparams`."""
    return easyedit_hparams(read_hparams_file(path), name, str(path))


_FIELDS_OF_SOME_VERSIONS = {"objective_optimization": "prompt_last"}
"""Fields that not every version of EasyEdit has, with the value for what the other versions do."""


def easyedit_hparams(values: Mapping[str, Any], name: str, source: str) -> Any:
    """Return the hyperparameters of one of EasyEdit's own methods; check the type of every value.

    Args:
        values: the values by field name, as a hyperparameter file holds them.
        name: the method's name.
        source: the file that they come from, for error messages.

    Raises:
        HyperParameterError: a value is invalid, unknown or missing; the message lists all of them.
        PluginError: EasyEdit has no such method.
    """
    cls = easyedit_method(name).hparams_class
    hints = typing.get_type_hints(cls)
    values = {**{key: value for key, value in _FIELDS_OF_SOME_VERSIONS.items() if key in hints}, **values}
    problems = unknown_and_missing(cls, values)
    for key in hints.keys() & values.keys():
        # EasyEdit annotates device as int but accepts text, its files have null for some fields, and false for a number
        # that is not used (norm_constraint).
        if key == "device" or values[key] is None or (values[key] is False and hints[key] is float):
            continue
        try:
            values[key] = convert_value(values[key], hints[key])
        except (TypeError, ValueError):
            problems.append(f"{key}: {values[key]!r} is not {describe_type(hints[key])}")
    if problems:
        raise HyperParameterError(f"{source}: " + "; ".join(sorted(problems)))
    return cls(**values)


def _apply_function(name: str, original: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
    """Wrap EasyEdit's apply function: validate first, restore the weights if the edit fails, and return a rollback.

    Args:
        name: the method's name, for error messages.
        original: EasyEdit's apply function.
    """

    def apply(
        model: Any,
        tok: Any,
        requests: Sequence[Any],
        hparams: Any,
        copy: bool = False,
        return_orig_weights: bool = True,
        keep_original_weight: bool = False,
        **kwargs: Any,
    ) -> tuple[Any, Any]:
        edit_requests = as_requests(requests)
        check_subjects(model, tok, hparams, edit_requests)
        model = copying.deepcopy(model) if copy else model
        weights, model_state = edited_weights(model, hparams), model_state_of(model)
        original_weights = {weight: parameter.detach().clone() for weight, parameter in weights.items()}
        edited_before = list(model_state.weights)

        def undo() -> None:
            copy_values(original_weights, weights)
            model_state.weights = list(edited_before)

        moments = second_moments(model, tok, hparams)
        records = [_as_easyedit_request(request, hparams) for request in edit_requests]
        options = {"copy": False, "return_orig_weights": True, "keep_original_weight": True, **kwargs}
        try:
            with method_context(model, tok, hparams, moments):
                original(model, tok, records, _on_device(hparams, model), **options)
            for weight, parameter in weights.items():
                if not torch.isfinite(parameter).all():
                    raise EditError(f"{edit_requests[0].where}: EasyEdit's {name} wrote infinity or NaN into {weight}")
        except BaseException as error:
            undo()
            if isinstance(error, LifelongError) or not isinstance(error, Exception):
                raise
            # EasyEdit doesn't validate its input, so any exception is possible.
            detail = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise EditError(f"{edit_requests[0].where}: EasyEdit's {name} failed: {detail}") from error
        model_state.weights = list(weights)
        return model, Rollback(undo, on_items=keep_original_weight)

    return apply


def _as_easyedit_request(request: EditRequest, hparams: Any) -> dict[str, Any]:
    """Return a request in EasyEdit's form. If the prompt has the subject twice, ``{}`` replaces its last occurrence."""
    prompt = request.prompt
    if hasattr(hparams, "fact_token") and request.subject and prompt.count(request.subject) > 1:
        start, end = find_subject(prompt, request.subject) or (0, 0)
        prompt = prompt[:start] + "{}" + prompt[end:]
    return {
        "case_id": request.case_id,
        "prompt": prompt,
        "target_new": request.target_new,
        "subject": request.subject,
        "ground_truth": request.ground_truth or "",
    }


def _on_device(hparams: Any, model: Any) -> Any:
    """Return a copy of hyperparameters whose ``device`` is that of the model."""
    return dataclasses.replace(hparams, device=device_name(model))
