"""Checks of the model and of the requests, made before anything is edited."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.subjects import is_function_word
from easyedit_lifelong.methods.locate_edit.config import LocateEditHyperParams
from easyedit_lifelong.methods.locate_edit.facts import encode_fact
from easyedit_lifelong.methods.locate_edit.templates import PLAIN
from easyedit_lifelong.methods.weight_updates.check import check_projections, find_named, model_error
from easyedit_lifelong.models.anatomy import anatomy_of
from easyedit_lifelong.models.load import context_length

LOG = logging.getLogger(__name__)


def check_model(model: Any, tokenizer: Any, hparams: LocateEditHyperParams) -> None:
    """Check that the model has the layers that the hyperparameters name, and that they can be edited.

    Raises:
        ModelError: the model is not a causal language model, or it lacks a layer, or a layer is not a projection, or is
            not in the block. The message names the hyperparameter.
    """
    check_projections(model, hparams)
    for number in hparams.edited_layers:
        block = find_named(model, hparams, "layer_module_tmp", number)
        projection = find_named(model, hparams, "rewrite_module_tmp", number)
        if not any(module is projection for module in block.modules()):
            path, inner = (name.format(number) for name in (hparams.layer_module_tmp, hparams.rewrite_module_tmp))
            raise model_error(hparams, "layer_module_tmp", f"{path} does not contain {inner}; name the block")
    anatomy = anatomy_of(model)
    last_block = None if anatomy is None else len(anatomy.blocks) - 1
    if hparams.v_loss_layer is not None and last_block is not None:
        if hparams.v_loss_layer > last_block:
            problem = f"there is no block {hparams.v_loss_layer}; the last one is {last_block}"
            raise model_error(hparams, "v_loss_layer", problem)
        if max(hparams.v_loss_layer, hparams.edited_layers[-1]) < last_block:
            find_named(model, hparams, "ln_f_module", None)


def check_requests(model: Any, tokenizer: Any, hparams: LocateEditHyperParams, requests: Sequence[EditRequest]) -> None:
    """Check each request by itself.

    :meth:`.WeightEditor.check_batch` checks that the requests of a batch agree. A subject that is a function word, such
    as "In", is reported as a warning.

    Raises:
        DataError: a request has no subject, its prompt does not contain its subject, or it is too long for the model.
            The message names the record and the field.
    """
    # The longest context template and the full stop after it.
    reserved = max((length for length, _ in hparams.context_template_length_params), default=0) + 2
    for request in requests:
        encode_fact(tokenizer, request, PLAIN, hparams, context_length(model), reserved)
        if hparams.fact_token != "last" and request.subject and is_function_word(request.subject):
            LOG.warning(
                "%s, field 'subject': %r occurs in texts about anything, and the edit acts where it occurs. Name the "
                "entity that the fact is about.",
                request.where,
                request.subject.strip(),
            )
