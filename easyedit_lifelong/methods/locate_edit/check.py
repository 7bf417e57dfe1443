"""Checks of a model and of requests, before anything is edited."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.methods.locate_edit.config import LocateEditHyperParams
from easyedit_lifelong.methods.locate_edit.facts import prepare
from easyedit_lifelong.methods.locate_edit.templates import PLAIN
from easyedit_lifelong.models.anatomy import anatomy_of, projection_shape
from easyedit_lifelong.models.kinds import Kind, kind_of
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.modules import find_module


def check_model(model: Any, tokenizer: Any, hparams: LocateEditHyperParams) -> None:
    """Check that the model has the layers that the hyperparameters name.

    Raises:
        ModelError: it does not have them, or is no causal language model; the message names the hyperparameter and
            what the model has.
    """
    if (kind := kind_of(model)) is not Kind.CAUSAL:
        raise ModelError(f"{hparams.ALG_NAME} edits causal language models; {type(model).__name__} is a {kind.value}")
    last = len(anatomy.blocks) - 1 if (anatomy := anatomy_of(model)) is not None else None
    for number in hparams.edited_layers:
        if last is not None and number > last:
            raise ModelError(_named(hparams, "layers", f"there is no block {number}; the last one is {last}"))
        _find(model, hparams, "layer_module_tmp", number)
        module = _find(model, hparams, "rewrite_module_tmp", number)
        try:
            projection_shape(module)
        except TypeError as error:
            raise ModelError(_named(hparams, "rewrite_module_tmp", str(error))) from None
    if hparams.v_loss_layer is not None and last is not None:
        if hparams.v_loss_layer > last:
            problem = f"there is no block {hparams.v_loss_layer}; the last one is {last}"
            raise ModelError(_named(hparams, "v_loss_layer", problem))
        if max(hparams.v_loss_layer, hparams.edited_layers[-1]) < last:
            _find(model, hparams, "ln_f_module", None)


def check_requests(model: Any, tokenizer: Any, hparams: LocateEditHyperParams, requests: Sequence[EditRequest]) -> None:
    """Check that every request can be edited by itself.

    Raises:
        DataError: one cannot: it has no subject, its subject is not in its prompt, or it is too long; the
            message names the record and the field.
    """
    limit = context_length(model)
    longest = max((length for length, _ in hparams.context_template_length_params), default=0)
    for request in requests:
        # Room for a context template and the full stop after it.
        prepare(tokenizer, request, PLAIN, hparams, None if limit is None else limit - longest - 2)


def _find(model: Any, hparams: LocateEditHyperParams, name: str, number: int | None) -> Any:
    path = getattr(hparams, name)
    try:
        return find_module(model, path if number is None else path.format(number))[1]
    except ModelError as error:
        raise ModelError(_named(hparams, name, str(error))) from None


def _named(hparams: LocateEditHyperParams, name: str, problem: str) -> str:
    where = f"{hparams.source}, " if hparams.source else ""
    return f"{where}{name}: {problem}"
