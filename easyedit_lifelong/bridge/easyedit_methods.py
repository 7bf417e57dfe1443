"""EasyEdit's own methods that rewrite weights (MEMIT, ROME, FT, …), as editing methods of the loops.

Their numbers show what consecutive editing does to a model without hooks. EasyEdit's files stay as
they are; :mod:`easyedit_lifelong.bridge.context` has what the methods need around them.
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

from easyedit_lifelong.bridge.context import device_name, memory_of, method_context
from easyedit_lifelong.bridge.locate import PACKAGE, import_easyedit
from easyedit_lifelong.bridge.registration import is_batchable
from easyedit_lifelong.bridge.requirements import check_names, check_subjects, second_moments
from easyedit_lifelong.bridge.weights import WeightKeeper, edited_weights, put_back
from easyedit_lifelong.data.request import EditRequest, as_requests
from easyedit_lifelong.data.subjects import find_subject
from easyedit_lifelong.errors import EditError, HyperParameterError, LifelongError, PluginError, did_you_mean
from easyedit_lifelong.hparams_files import read_hparams_file
from easyedit_lifelong.hyperparams import coerce, describe_type, misnamed_values
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.shared.rollback import Rollback
from easyedit_lifelong.snapshots import Snapshots

_REQUIRED = ("layers", "rewrite_module_tmp")


def easyedit_method(name: str) -> EditMethod:
    """Return one of EasyEdit's own methods, so that the loops can run it.

    Args:
        name: EasyEdit's name of a method that rewrites weights, such as ``MEMIT``.

    Raises:
        EasyEditMissingError: there is no EasyEdit.
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
            "(MEMIT, ROME, FT, …), for their edits can be taken back and saved."
        )
    return EditMethod(
        name,
        hparams_class,
        _apply_function(name, algorithms[name]),
        batchable=is_batchable(name),
        check=check_names,
        check_requests=check_subjects,
        state=Snapshots(WeightKeeper()),
    )


def easyedit_method_for(hparams: Any) -> EditMethod | None:
    """Return EasyEdit's own method that hyperparameters belong to, or None if they aren't EasyEdit's."""
    if type(hparams).__module__.partition(".")[0] != PACKAGE:
        return None
    return easyedit_method(str(getattr(hparams, "alg_name", "")))


def read_easyedit_hparams(path: Path, name: str) -> Any:
    """Read a hyperparameter file of one of EasyEdit's own methods, as strictly as our own; see below."""
    return easyedit_hparams(read_hparams_file(path), name, str(path))


def easyedit_hparams(values: Mapping[str, Any], name: str, source: str) -> Any:
    """Return the hyperparameters of one of EasyEdit's own methods, checked as strictly as our own.

    Args:
        values: as a hyperparameter file holds them.
        name: the method's.
        source: where they come from, for messages.

    Raises:
        HyperParameterError: the file can't be used; the message names every field that is wrong.
        PluginError: EasyEdit has no such method.
    """
    cls = easyedit_method(name).hparams_class
    values, hints = dict(values), typing.get_type_hints(cls)
    problems = misnamed_values(cls, values)
    for key in hints.keys() & values.keys():
        # EasyEdit calls a device an int, and takes text; a model's folder may be null; its files switch a number off
        # with false (norm_constraint).
        if key == "device" or values[key] is None or (values[key] is False and hints[key] is float):
            continue
        try:
            values[key] = coerce(values[key], hints[key])
        except (TypeError, ValueError):
            problems.append(f"{key}: {values[key]!r} is not {describe_type(hints[key])}")
    if problems:
        raise HyperParameterError(f"{source}: " + "; ".join(sorted(problems)))
    return cls(**values)


def _apply_function(name: str, original: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
    """Return an apply function around EasyEdit's own: all or nothing, and with a way back."""

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
        valid = as_requests(requests)
        check_subjects(model, tok, hparams, valid)
        model = copying.deepcopy(model) if copy else model
        weights, memory = edited_weights(model, hparams), memory_of(model)
        before = {weight: parameter.detach().clone() for weight, parameter in weights.items()}
        edited_before = list(memory.weights)

        def undo() -> None:
            put_back(weights, before)
            memory.weights = list(edited_before)

        moments = second_moments(model, tok, hparams)
        records = [_record(request, hparams) for request in valid]
        options = {"copy": False, "return_orig_weights": True, "keep_original_weight": True, **kwargs}
        try:
            with method_context(model, tok, hparams, moments):
                original(model, tok, records, _on_device(hparams, model), **options)
            for weight, parameter in weights.items():
                if not torch.isfinite(parameter).all():
                    raise EditError(f"{valid[0].where}: EasyEdit's {name} made {weight} infinite or not a number")
        except BaseException as error:
            undo()
            if isinstance(error, LifelongError) or not isinstance(error, Exception):
                raise
            # EasyEdit checks nothing: AssertionError, IndexError, LinAlgError, …
            detail = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise EditError(f"{valid[0].where}: EasyEdit's {name} failed: {detail}") from error
        memory.weights = list(weights)
        return model, Rollback(undo, on_items=keep_original_weight)

    return apply


def _record(request: EditRequest, hparams: Any) -> dict[str, Any]:
    """Return a request as EasyEdit takes it; a subject that comes twice is marked where it comes last."""
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
    """Return hyperparameters that name the model's device, in a form that every flavour of EasyEdit takes."""
    return dataclasses.replace(hparams, device=device_name(model))
