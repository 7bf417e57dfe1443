"""Checks of the model and of the requests, made before anything is edited."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.methods.locate_edit.config import LocateEditHyperParams
from easyedit_lifelong.methods.locate_edit.facts import encode_fact
from easyedit_lifelong.methods.locate_edit.templates import PLAIN
from easyedit_lifelong.models.anatomy import anatomy_of, projection_shape
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.model_kinds import ModelKind, kind_of
from easyedit_lifelong.models.modules import find_module


def check_model(model: Any, tokenizer: Any, hparams: LocateEditHyperParams) -> None:
    """Check that the model has the layers that the hyperparameters name, and that they can be edited.

    Raises:
        ModelError: the model is not a causal language model, or it lacks a layer, or a layer is not a projection. The
            message names the hyperparameter.
    """
    if (kind := kind_of(model)) is not ModelKind.CAUSAL:
        raise ModelError(f"{hparams.ALG_NAME} edits causal language models; {type(model).__name__} is a {kind.value}")
    anatomy = anatomy_of(model)
    last_block = None if anatomy is None else len(anatomy.blocks) - 1
    for number in hparams.edited_layers:
        if last_block is not None and number > last_block:
            raise _model_error(hparams, "layers", f"there is no block {number}; the last one is {last_block}")
        _find(model, hparams, "layer_module_tmp", number)
        projection = _find(model, hparams, "rewrite_module_tmp", number)
        try:
            projection_shape(projection)
        except TypeError as error:
            raise _model_error(hparams, "rewrite_module_tmp", str(error)) from None
    if hparams.v_loss_layer is not None and last_block is not None:
        if hparams.v_loss_layer > last_block:
            problem = f"there is no block {hparams.v_loss_layer}; the last one is {last_block}"
            raise _model_error(hparams, "v_loss_layer", problem)
        if max(hparams.v_loss_layer, hparams.edited_layers[-1]) < last_block:
            _find(model, hparams, "ln_f_module", None)


def check_requests(model: Any, tokenizer: Any, hparams: LocateEditHyperParams, requests: Sequence[EditRequest]) -> None:
    """Check each request by itself.

    :func:`~easyedit_lifelong.methods.locate_edit.facts.check_batch` checks that the requests of a batch agree.

    Raises:
        DataError: a request has no subject, its prompt does not contain its subject, or it is too long for the model.
            The message names the record and the field.
    """
    # The longest context template and the full stop after it.
    reserved = max((length for length, _ in hparams.context_template_length_params), default=0) + 2
    for request in requests:
        encode_fact(tokenizer, request, PLAIN, hparams, context_length(model), reserved)


def _find(model: Any, hparams: LocateEditHyperParams, name: str, number: int | None) -> Any:
    """Return the module that a hyperparameter names.

    Args:
        model: the model.
        hparams: the hyperparameters.
        name: the hyperparameter that holds the module's path.
        number: the number of the block, for the ``{}`` in the path; None: the path has none.

    Raises:
        ModelError: the model has no such module. The message names the hyperparameter.
    """
    path = getattr(hparams, name)
    try:
        return find_module(model, path if number is None else path.format(number))[1]
    except ModelError as error:
        raise _model_error(hparams, name, str(error)) from None


def _model_error(hparams: LocateEditHyperParams, name: str, problem: str) -> ModelError:
    """Return an error whose message names the hyperparameter file, if there is one, and the hyperparameter."""
    file = f"{hparams.source}, " if hparams.source else ""
    return ModelError(f"{file}{name}: {problem}")
