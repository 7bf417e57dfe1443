"""How EasyEdit's own methods that rewrite weights are called, and what each of them keeps from batch to batch.

EasyEdit keeps such state in module globals, in the hyperparameters, or not at all. Here it is a dictionary of tensors
that belongs to one model: a call gets it and returns its successor.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.bridge.easyedit_location import PACKAGE
from easyedit_lifelong.bridge.easyedit_scoring import with_leading_spaces
from easyedit_lifelong.bridge.method_context import device_name
from easyedit_lifelong.bridge.requirements import check_prompt_form
from easyedit_lifelong.bridge.weights import base_of, edited_modules
from easyedit_lifelong.bridge.wrapping import replaced
from easyedit_lifelong.data.request import EditRequest, as_requests
from easyedit_lifelong.errors import DataError, EditError, HyperParameterError, LifelongError
from easyedit_lifelong.models.anatomy import is_transposed, projection_shape

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class MethodCall:
    """One call of a method of EasyEdit, inside its context.

    Attributes:
        original: EasyEdit's apply function.
        model: the model to edit.
        tok: its tokenizer.
        records: the requests in EasyEdit's form.
        hparams: a copy of the hyperparameters for this call.
        options: further arguments.
        tensors: what the calls before this one have kept for this model; not to be changed in place.
        projector: AlphaEdit's projection onto the null space of each layer, of shape ``(layers, d, d)``.
    """

    original: Callable[..., Any]
    model: Any
    tok: Any
    records: list[dict[str, Any]]
    hparams: Any
    options: dict[str, Any]
    tensors: Tensors
    projector: Tensor | None = None


def call_method(name: str, call: MethodCall) -> Tensors:
    """Edit the model with a method of EasyEdit.

    Args:
        name: the method's name in EasyEdit.
        call: its arguments.

    Returns:
        The tensors for the next call.
    """
    return _CALLS.get(name, _plain)(call)


def call_hparams(hparams: Any, model: Any, modules: list[str]) -> Any:
    """Return a copy of hyperparameters for one call.

    ``device`` is that of the model. EasyEdit's methods derive the layout of weights from ``model_name``: ``llama``
    stands for ``nn.Linear``, ``gpt2-xl`` for GPT-2's transposed weights.

    Args:
        hparams: the hyperparameters of a method that needs this.
        model: the model.
        modules: paths of the edited modules.
    """
    result = copy.copy(hparams)
    result.device = device_name(model)
    if type(hparams).__name__ in _NEED_LAYOUT:
        result.model_name = "gpt2-xl" if is_transposed(model.get_submodule(modules[0])) else "llama"
    base = getattr(hparams, "_base_hparams", None)
    if base is not None:
        result._base_hparams = call_hparams(base, model, modules)
    return result


_NEED_LAYOUT = ("AlphaEditHyperParams", "UltraEditHyperParams", "SimIEHyperParams", "WISEHyperParams")
"""The hyperparameter classes of methods that look for a known name in ``model_name``."""


def _plain(call: MethodCall) -> Tensors:
    """Call a method that keeps nothing between batches."""
    call.original(call.model, call.tok, call.records, call.hparams, **call.options)
    return {}


def null_space_projector(model: Any, tok: Any, hparams: Any) -> Tensor:
    """Return the projection onto the null space of each layer, read from ``P_loc`` or computed by EasyEdit's code.

    EasyEdit would compute it in every call, and write it into the working directory.

    Returns:
        A float32 tensor of shape ``(layers, d, d)`` on the CPU, where d is the size of the layer's keys.

    Raises:
        HyperParameterError: the file does not fit the model, or the null space is empty.
    """
    module = importlib.import_module(f"{PACKAGE}.models.alphaedit.AlphaEdit_main")
    size, _ = projection_shape(model.get_submodule(edited_modules(hparams)[-1]))
    if hparams.P_loc and Path(hparams.P_loc).is_file():
        try:
            projector = torch.load(hparams.P_loc, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises many kinds
            raise HyperParameterError(f"P_loc: {hparams.P_loc}: can't be read: {error}") from error
        expected = (len(hparams.layers), size, size)
        if tuple(getattr(projector, "shape", ())) != expected:
            raise HyperParameterError(f"P_loc: {hparams.P_loc}: does not hold a tensor of shape {expected}")
        return projector
    projector = torch.stack([module.get_project(model, tok, layer, hparams) for layer in hparams.layers])
    empty = [layer for layer, matrix in zip(hparams.layers, projector, strict=True) if not matrix.any()]
    if empty:
        raise HyperParameterError(
            f"nullspace_threshold: {hparams.nullspace_threshold:g}: no eigenvalue of the second moments of layer "
            f"{empty[0]} is below it, so AlphaEdit can't edit there. Use a larger threshold."
        )
    return projector


def _alphaedit(call: MethodCall) -> Tensors:
    """Call AlphaEdit with this model's projector and ``cache_c``, which EasyEdit keeps in globals for all models."""
    module = importlib.import_module(f"{PACKAGE}.models.alphaedit.AlphaEdit_main")
    assert call.projector is not None
    cache = call.tensors["cache_c"].clone() if call.tensors else torch.zeros_like(call.projector)
    # With a P_loc that exists, and P_loaded, EasyEdit uses the global P.
    call.hparams.P_loc = module.__file__
    with replaced(module, P=call.projector, P_loaded=True, cache_c=cache, cache_c_new=True):
        _plain(call)
    return {"cache_c": cache}


def _ultraedit(call: MethodCall) -> Tensors:
    """Call UltraEdit in a new executor, since EasyEdit's global one keeps the first model that it has edited.

    EasyEdit makes a new normaliser in every call, so nothing is kept between batches.
    """
    module = importlib.import_module(f"{PACKAGE}.models.ultraedit.ultraedit_main")
    # It edits the first batch_size requests and ignores the others.
    call.hparams.batch_size = len(call.records)
    call.hparams.inner_params = edited_modules(call.hparams)
    module.UltraEditRewriteExecutor().apply_to_model(call.model, call.tok, call.records, call.hparams)
    return {}


def _pmet(call: MethodCall) -> Tensors:
    """Call PMET with a space before each target, which EasyEdit adds only for models whose name contains ``gpt``."""
    for record in call.records:
        prompt = record["prompt"].replace("{}", record["subject"])
        record["target_new"] = with_leading_spaces(call.tok, prompt, record["target_new"])
    return _plain(call)


def _simie(call: MethodCall) -> Tensors:
    """Call SimIE with the state of this model, which EasyEdit stores in the hyperparameters."""
    if call.tensors:
        call.hparams._simie_instance = _simie_from(call)
        call.hparams._simie_call_count = call.hparams._simie_total_edits = 0
    _plain(call)
    simie = call.hparams._simie_instance
    return {
        f"{group}/{name}": tensor.detach().cpu().clone()
        for group in _SIMIE_GROUPS
        for name, tensor in getattr(simie, group).items()
    }


_SIMIE_GROUPS = ("init_weights_copy", "weights_copy", "matrix_P")


def _simie_from(call: MethodCall) -> Any:
    """Return a SimIE object with the tensors of an earlier call."""
    hparams = call.hparams
    groups: dict[str, dict[str, Tensor]] = {group: {} for group in _SIMIE_GROUPS}
    for key, tensor in call.tensors.items():
        group, _, name = key.partition("/")
        groups[group][name] = tensor.clone()
    simie = importlib.import_module(f"{PACKAGE}.models.simie.simie").SimIE(
        lamHyper=hparams.lamHyper, init=hparams.init_model, solver=hparams.solver
    )
    simie.initialization(
        model_name=hparams.model_name,
        init_weights=groups["init_weights_copy"],
        device=hparams.device,
        fast=hparams.fast,
    )
    for group in ("weights_copy", "matrix_P"):
        device = simie.device if simie.fast else "cpu"
        setattr(simie, group, {name: tensor.to(device) for name, tensor in groups[group].items()})
    return simie


_CALLS: dict[str, Callable[[MethodCall], Tensors]] = {
    "AlphaEdit": _alphaedit,
    "ULTRAEDIT": _ultraedit,
    "PMET": _pmet,
    "SimIE": _simie,
}
"""The methods that need more than a plain call."""


def valid_requests(name: str, requests: Sequence[Any], *, batchable: bool) -> list[EditRequest]:
    """Validate the requests of one call.

    Args:
        name: the method's name in EasyEdit.
        requests: requests in EasyEdit's fields, or :class:`EditRequest` objects.
        batchable: whether the method edits several requests in one call.

    Raises:
        DataError: a request can't be used, or there are none.
        EditError: there are several, and the method edits one.
    """
    valid = as_requests(requests)
    check_prompt_form(name, valid)
    if not valid:
        raise DataError("there are no requests to edit")
    if len(valid) > 1 and not batchable:
        raise EditError(f"EasyEdit's own {name} edits one request at a time; it was given {len(valid)}.")
    return valid


@contextlib.contextmanager
def undone_on_failure(name: str, request: EditRequest, undo: Callable[[], None]) -> Iterator[None]:
    """Undo what an edit changed if it fails in this context.

    EasyEdit does not validate its input, so its code can raise any exception. It becomes an EditError that names the
    request.

    Args:
        name: the method's name in EasyEdit.
        request: the request, the first one of a batch.
        undo: restores the model.

    Raises:
        EditError: EasyEdit's code raised an exception.
    """
    try:
        yield
    except BaseException as error:
        undo()
        if isinstance(error, LifelongError) or not isinstance(error, Exception):
            raise
        detail = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise EditError(f"{request.where}: EasyEdit's {name} failed: {detail}") from error


def check_settings(name: str, hparams: Any) -> None:
    """Refuse settings with which EasyEdit's code computes something else than it says.

    Args:
        name: the method's name in EasyEdit.
        hparams: its hyperparameters.

    Raises:
        HyperParameterError: a setting can't be used.
    """
    if name == "ULTRAEDIT":
        for setting, value, why in (
            ("token", "mask", "EasyEdit looks for the answer's tokens at the beginning of the prompt"),
            ("batch_size_once", 1, "EasyEdit trains on the padding of shorter answers, and leaves requests out"),
            ("half", False, "EasyEdit converts the model itself"),
        ):
            if (found := getattr(hparams, setting)) != value:
                raise HyperParameterError(f"{setting}: {found!r}: with anything but {value!r}, {why}.")
    if name == "PMET" and any("attn" in template for template in hparams.rewrite_module_tmps):
        raise HyperParameterError("rewrite_module_tmps: PMET can edit only MLP modules in this package's loops.")
    if name == "SimIE" and hparams.base_method not in _SIMIE_BASES:
        raise HyperParameterError(
            f"base_method: {hparams.base_method!r}: SimIE can use {', '.join(_SIMIE_BASES)} in this package's loops."
        )
    if hasattr(base := base_of(hparams), "layers") and not base.layers:
        raise HyperParameterError("layers: is empty")


_SIMIE_BASES = ("ROME", "MEMIT", "FT")
