"""Checks of the model and of the requests of a batch, made before any weight is changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import EditError, ModelError
from easyedit_lifelong.methods.shared.causal_check import check_causal
from easyedit_lifelong.methods.shared.encoded_requests import encode_request
from easyedit_lifelong.methods.weight_updates.config import (
    BlockUpdateHyperParams,
    WeightUpdateHyperParams,
)
from easyedit_lifelong.models.anatomy import anatomy_of, is_routed_expert, projection_shape
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.models.pair_encoders import encoder_for
from easyedit_lifelong.models.quantisation import quantised_weight
from easyedit_lifelong.models.split_weights import is_split

QUANTISED_REMEDY = (
    "Updates can't be added to a quantised weight. Use a method that keeps edits beside the weights (GRACE, CoachHook "
    "with hook layers, NeuralDB), or load the model without quantisation (dtype: bfloat16)."
)
"""What to do if a method that writes weights is used on a quantised model."""

SPLIT_REMEDY = (
    "This method needs the whole projection. Use GRACE at an MLP (docs/models.md), or load the model without a "
    "tensor-parallel plan."
)
"""What to do if a method that needs projections is used on a model that is split over processes."""


def check_projections(model: Any, hparams: BlockUpdateHyperParams) -> None:
    """Check that the model has the projections that the hyperparameters name.

    Raises:
        ModelError: the model is not a causal language model, or it lacks a layer, or a layer is not a projection. The
            message names the hyperparameter.
    """
    check_causal(model, hparams.ALG_NAME)
    anatomy = anatomy_of(model)
    for number in hparams.edited_layers:
        if anatomy is not None and number >= len(anatomy.blocks):
            last_block = len(anatomy.blocks) - 1
            raise model_error(hparams, "layers", f"there is no block {number}; the last one is {last_block}")
        projection = find_named(model, hparams, "rewrite_module_tmp", number)
        _check_projection(projection, hparams.rewrite_module_tmp.format(number), hparams, "rewrite_module_tmp")


def check_block_projections(model: Any, hparams: WeightUpdateHyperParams, name: str) -> None:
    """Check that the model has the projections that a hyperparameter lists by their paths, inside its blocks.

    Args:
        model: the model.
        hparams: the hyperparameters.
        name: the hyperparameter.

    Raises:
        ModelError: the model is not a causal language model, or a projection is missing or cannot be edited.
    """
    check_causal(model, hparams.ALG_NAME)
    anatomy = anatomy_of(model)
    for module_name in getattr(hparams, name):
        try:
            path, module = find_module(model, module_name)
        except ModelError as error:
            raise model_error(hparams, name, str(error)) from None
        _check_projection(module, path, hparams, name)
        if anatomy is not None and anatomy.block_of(path) is None:
            problem = f"{path} is in none of the model's blocks; name a projection of a block"
            raise model_error(hparams, name, problem)


def _check_projection(module: Any, path: str, hparams: WeightUpdateHyperParams, name: str) -> None:
    """Check that a module is a projection that gets all tokens.

    Args:
        module: the module.
        path: its path.
        hparams: the hyperparameters.
        name: the hyperparameter that names it.

    Raises:
        ModelError: it is not, or its weight is split over processes, or quantised and the method writes weights.
    """
    try:
        projection_shape(module)
    except TypeError as error:
        raise model_error(hparams, name, str(error)) from None
    if is_split(module):
        raise model_error(hparams, name, f"{path} is split over processes by tensor parallelism. {SPLIT_REMEDY}")
    if hparams.writes_weights and (weight := quantised_weight(module)) is not None:
        raise model_error(hparams, name, f"{path} has {weight}. {QUANTISED_REMEDY}")
    if is_routed_expert(path):
        problem = f"{path} gets only the tokens that are routed to this expert; name a projection that gets all tokens"
        raise model_error(hparams, name, problem)


def check_encodable(
    model: Any, tokenizer: Any, hparams: WeightUpdateHyperParams, requests: Sequence[EditRequest]
) -> None:
    """Check each request by itself.

    Raises:
        DataError: prompt or target has no tokens, or together they are too long for the model.
    """
    encode, limit = encoder_for(model, tokenizer, eos=hparams.eos), context_length(model)
    for request in requests:
        encode_request(encode, request, limit)


def find_named(model: Any, hparams: WeightUpdateHyperParams, name: str, number: int | None) -> Any:
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
        raise model_error(hparams, name, str(error)) from None


def model_error(hparams: WeightUpdateHyperParams, name: str, problem: str) -> ModelError:
    """Return an error whose message names the hyperparameter file, if there is one, and the hyperparameter."""
    file = f"{hparams.source}, " if hparams.source else ""
    return ModelError(f"{file}{name}: {problem}")


def check_same_targets(prompts: Iterable[tuple[Sequence[int], EditRequest]]) -> None:
    """Check that no two requests of a batch have the same prompt and different targets.

    Args:
        prompts: the tokens of each request's prompt, and the request.

    Raises:
        EditError: two requests do.
    """
    first_requests: dict[tuple[int, ...], EditRequest] = {}
    for tokens, request in prompts:
        first = first_requests.setdefault(tuple(tokens), request)
        if first.target_new != request.target_new:
            raise EditError(
                f"{request.where}, field 'prompt': {first.where} of the same batch has the same prompt and another "
                "target. Put them in different batches, or leave one out."
            )
