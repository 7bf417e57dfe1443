"""Run EasyEdit's own methods in this package's loops, as baselines.

This module has those that rewrite weights (MEMIT, ROME, AlphaEdit, …). :mod:`easyedit_lifelong.bridge.layer_methods`
has those that replace a layer. No file of EasyEdit is changed; :mod:`easyedit_lifelong.bridge.method_context` sets up
the environment of the methods.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.bridge.layer_methods import LAYER_METHODS, check_layer_method, layer_apply_function
from easyedit_lifelong.bridge.method_calls import (
    MethodCall,
    Tensors,
    call_hparams,
    call_method,
    check_settings,
    null_space_projector,
    undone_on_failure,
    valid_requests,
)
from easyedit_lifelong.bridge.method_context import copy_with_state, method_context, model_state_of
from easyedit_lifelong.bridge.method_hparams import hparams_class, is_easyedits
from easyedit_lifelong.bridge.method_names import easyedit_name
from easyedit_lifelong.bridge.registration import is_batchable, own_function
from easyedit_lifelong.bridge.requirements import (
    check_names,
    check_subjects,
    inverse_moments,
    moments_source,
    second_moments,
)
from easyedit_lifelong.bridge.weights import EditedWeights, base_of, copy_values, edited_modules, edited_weights
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.subjects import find_subject
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.shared.rollback import Rollback
from easyedit_lifelong.snapshots import Snapshots


def easyedit_method(name: str) -> EditMethod:
    """Return one of EasyEdit's own methods as an :class:`EditMethod`.

    Args:
        name: the method's name in EasyEdit, such as ``MEMIT``, with or without the prefix ``EasyEdit/``.

    Raises:
        EasyEditMissingError: EasyEdit isn't installed.
        PluginError: EasyEdit has no such method, or it can't run in this package's loops.
    """
    own_name = easyedit_name(name)
    cls = hparams_class(own_name)
    original = own_function(own_name)
    if own_name in LAYER_METHODS:
        return EditMethod(name, cls, layer_apply_function(own_name, original), check=check_layer_method)
    return EditMethod(
        name,
        cls,
        _apply_function(own_name, original),
        batchable=_takes_batches(own_name),
        check=functools.partial(_check, own_name),
        check_requests=check_subjects,
        prepare=_prepare_alphaedit if own_name == "AlphaEdit" else None,
        state=Snapshots(EditedWeights()),
    )


def easyedit_method_for(hparams: Any) -> EditMethod | None:
    """Return EasyEdit's own method for hyperparameters of EasyEdit's classes, else None."""
    return easyedit_method(str(getattr(hparams, "alg_name", ""))) if is_easyedits(hparams) else None


def _takes_batches(name: str) -> bool:
    """Return whether one call of a method can edit several requests. SimIE edits them one by one."""
    return is_batchable(name) or name == "SimIE"


def _check(name: str, model: Any, tok: Any, hparams: Any) -> None:
    """Check settings and names, and obtain second moments."""
    check_settings(name, hparams)
    check_names(model, tok, hparams)


def _prepare_alphaedit(model: Any, tok: Any, hparams: Any, progress: Callable[[int, int], None] | None = None) -> None:
    """Compute AlphaEdit's projector, which later edits use."""
    _projector(model, tok, hparams, second_moments(model, tok, hparams))


def _projector(model: Any, tok: Any, hparams: Any, moments: Any) -> Tensor:
    """Return AlphaEdit's projector for a model; it is computed at the first call."""
    modules, cached = edited_modules(hparams), model_state_of(model).moments
    key = ("projector", *moments_source(hparams), *modules, hparams.P_loc, hparams.nullspace_threshold)
    if key not in cached:
        with method_context(model, tok, hparams, moments):
            cached[key] = null_space_projector(model, tok, call_hparams(hparams, model, modules))
    return cached[key]


def _apply_function(name: str, original: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
    """Wrap EasyEdit's apply function: validate first, restore the weights if the edit fails, and return a rollback.

    Args:
        name: the method's name in EasyEdit.
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
        edit_requests = valid_requests(name, requests, batchable=_takes_batches(name))
        check_settings(name, hparams)
        check_subjects(model, tok, hparams, edit_requests)
        model = copy_with_state(model) if copy else model
        weights, model_state = edited_weights(model, hparams), model_state_of(model)
        original_weights = {weight: parameter.detach().clone() for weight, parameter in weights.items()}
        edited_before, tensors_before = list(model_state.weights), model_state.tensors

        def undo() -> None:
            copy_values(original_weights, weights)
            model_state.weights, model_state.tensors = list(edited_before), tensors_before

        moments = second_moments(model, tok, hparams)
        projector = _projector(model, tok, hparams, moments) if name == "AlphaEdit" else None
        records = [_as_easyedit_request(request, base_of(hparams)) for request in edit_requests]
        options = {"copy": False, "return_orig_weights": True, "keep_original_weight": True, **kwargs}
        with undone_on_failure(name, edit_requests[0], undo):
            with method_context(model, tok, base_of(hparams), moments, inverse_moments(model, hparams, moments)):
                own = call_hparams(hparams, model, edited_modules(hparams))
                call = MethodCall(original, model, tok, records, own, options, tensors_before, projector)
                tensors: Tensors = call_method(name, call)
            for label, tensor in (*weights.items(), *tensors.items()):
                if not torch.isfinite(tensor).all():
                    raise EditError(f"{edit_requests[0].where}: EasyEdit's {name} wrote infinity or NaN into {label}")
        model_state.weights, model_state.tensors = list(weights), dict(tensors)
        return model, Rollback(model_state.record_edit(undo), on_items=keep_original_weight)

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
