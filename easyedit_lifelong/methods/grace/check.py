"""Checks before an edit: whether GRACE's hyperparameters fit the model, the requests and the model's activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import EditError, ModelError
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.named_layers import find_answer_layer, find_layer
from easyedit_lifelong.methods.grace.subject.request_texts import encode_request_texts
from easyedit_lifelong.methods.grace.training.layer_passes import LayerPasses
from easyedit_lifelong.methods.shared.subject_keys.distance import has_direction
from easyedit_lifelong.models.anatomy import anatomy_of
from easyedit_lifelong.models.encoding import EncodedPair
from easyedit_lifelong.models.model_kinds import ModelKind, kind_of
from easyedit_lifelong.models.stack_trackers import find_stack

_EXAMPLES = {ModelKind.SEQ2SEQ: "GRACE/t5-small", ModelKind.CLASSIFIER: "GRACE/scotus-bert"}
"""Shipped hyperparameter files of models that are not causal language models, by the kind of model."""


def check_kind(model: Any, hparams: GraceHyperParams) -> None:
    """Check that ``query_token`` and ``tokens_per_key`` suit the kind of model.

    This comes before layers are looked up: if a setting is meant for another kind of model, its layers are, too.

    Raises:
        ModelError: a check fails; the message says what to set.
    """
    kind, name = kind_of(model), type(model).__name__
    if hparams.by_subject and kind is not ModelKind.CAUSAL:
        where = ", ".join(part for part in (hparams.source, "query_token") if part)
        example = f", as {_EXAMPLES[kind]} does" if kind in _EXAMPLES else ""
        raise ModelError(
            f"{where}: subject_last is for causal language models; {name} is a {kind.value}. Set prompt_last, name one "
            f"of its layers in inner_params{example}, and leave out the settings of docs/grace-subject.md."
        )
    if kind is ModelKind.CAUSAL and hparams.query_token == "first":
        raise ModelError(
            "query_token: the first token of a causal language model has seen nothing of the prompt, so its "
            f"activation can't be the query in {name}. Use prompt_last."
        )
    if hparams.tokens_per_key and kind is not ModelKind.CAUSAL:
        raise ModelError(f"tokens_per_key: needs a causal language model; {name} is none. Set it to 0.")


def check_layer(model: Any, tok: Any, hparams: GraceHyperParams) -> None:
    """Check that the model has the named layers, and that ``query_token`` and ``replacement`` suit the kind of model.

    Raises:
        ModelError: a check fails; the message says what the model has instead.
    """
    check_kind(model, hparams)
    _, layer = find_layer(model, hparams)
    if hparams.by_subject:
        _check_edits_by_subject(model, hparams)
    in_decoder = kind_of(model) is ModelKind.SEQ2SEQ and find_stack(model, layer) is not model.get_encoder()
    if in_decoder and hparams.replacement == "replace_prompt":
        raise ModelError(
            f"replacement: there are no tokens before the start token of {type(model).__name__}'s decoder, so "
            "replace_prompt would replace nothing. Use replace_last or replace_all, or name a layer of the encoder."
        )


def check_requests(model: Any, tok: Any, hparams: GraceHyperParams, requests: Sequence[EditRequest]) -> None:
    """Check that every request can be found by its subject; do nothing if edits are not found by their subjects.

    Raises:
        DataError: a request has no subject, its subject isn't in its prompt, or one of its texts is too long; the
            message names the record and the field.
    """
    if not hparams.by_subject:
        return
    path, layer = find_answer_layer(model, hparams) or find_layer(model, hparams)
    passes = LayerPasses(model, layer, path, warn=False)

    def encode(request: EditRequest, text: str) -> EncodedPair:
        return passes.encode(tok, request, hparams, text)

    for request in requests:
        encode_request_texts(tok, request, hparams, encode)


def check_query(query: Tensor, hparams: GraceHyperParams, activations: str) -> None:
    """Check that the query of a new edit can be the key of it.

    Args:
        query: the query, shape ``(key_vectors * key_size,)``.
        hparams: GRACE's hyperparameters.
        activations: what the query consists of, for messages: a plural.

    Raises:
        EditError: a number is NaN or infinite, or a key vector is zero although ``dist_fn`` compares directions.
    """
    if not torch.isfinite(query).all():
        raise EditError(f"{activations} are NaN or infinite")
    if not has_direction(query.reshape(hparams.vectors_per_key, -1), hparams.dist_fn):
        raise EditError(
            f"{activations} are all zero. With dist_fn: cos, a key without a direction never answers. Name another "
            "layer in inner_params, or use dist_fn: euc."
        )


def _check_edits_by_subject(model: Any, hparams: GraceHyperParams) -> None:
    """Check that an ``answer_layer`` is in a later block than the layer at which subjects are found.

    Raises:
        ModelError: it is not.
    """
    named_answer_layer = find_answer_layer(model, hparams)
    if named_answer_layer is None:
        return
    answer_path, answer_layer = named_answer_layer
    key_path, key_layer = find_layer(model, hparams)
    if answer_layer is key_layer:
        raise ModelError(
            f"answer_layer: {answer_path} is the layer at which subjects are found. Name a later layer, or leave "
            "answer_layer out to replace the output at the subject's token."
        )
    anatomy = anatomy_of(model)
    if anatomy is None:
        return
    key_block, answer_block = anatomy.block_of(key_path), anatomy.block_of(answer_path)
    if answer_block is None:
        raise ModelError(
            f"answer_layer: {answer_path} is in none of the model's blocks; name a layer of a later block."
        )
    if key_block is not None and answer_block <= key_block:
        raise ModelError(
            f"answer_layer: {answer_path} is in block {answer_block}, but subjects are found in block {key_block}; "
            "name a layer of a later block."
        )
