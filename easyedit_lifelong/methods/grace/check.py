"""What has to fit between GRACE's hyperparameters and a model, and its requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.named_layers import answering_layer, find_layer
from easyedit_lifelong.methods.grace.subject.contexts import prepare_case
from easyedit_lifelong.methods.grace.training.layer_passes import LayerPasses
from easyedit_lifelong.models.anatomy import anatomy_of
from easyedit_lifelong.models.kinds import Kind, kind_of
from easyedit_lifelong.models.prompt_positions import stack_of


def check_layer(model: Any, tok: Any, hparams: GraceHyperParams) -> None:
    """Check that the model has the layer that the hyperparameters name, and a use for the tokens that they name.

    Raises:
        ModelError: it doesn't; the message says what it has.
    """
    _, layer = find_layer(model, hparams)
    kind, name = kind_of(model), type(model).__name__
    if kind is Kind.CAUSAL and hparams.query_token == "first":
        raise ModelError(
            "query_token: the first token of a causal language model has seen nothing of the prompt, so "
            f"{name} can't be asked with it. Use prompt_last."
        )
    if hparams.by_subject:
        _check_subjects(model, hparams, kind, name)
    in_decoder = kind is Kind.SEQ2SEQ and stack_of(model, layer) is not model.get_encoder()
    if in_decoder and hparams.replacement == "replace_prompt":
        raise ModelError(
            f"replacement: nothing stands before the start token of {name}'s decoder that replace_prompt could "
            "replace. Use replace_last or replace_all, or name a layer of the encoder."
        )


def check_requests(model: Any, tok: Any, hparams: GraceHyperParams, requests: Sequence[EditRequest]) -> None:
    """Check that every request can be edited: one that is to be found by its subject has to name it.

    Raises:
        DataError: one can't: it has no subject, its subject isn't in its prompt, or it is too long in one of its
            contexts; the message names the record and the field.
    """
    if not hparams.by_subject:
        return
    path, layer = answering_layer(model, hparams) or find_layer(model, hparams)
    passes = LayerPasses(model, layer, path, warn=False)
    for request in requests:
        prepare_case(tok, request, hparams, lambda one, text: passes.encode(tok, one, hparams.replacement, text))


def _check_subjects(model: Any, hparams: GraceHyperParams, kind: Kind, name: str) -> None:
    """Check what edits that are found by their subjects need."""
    if kind is not Kind.CAUSAL:
        raise ModelError(f"query_token: subject_last is for causal language models; {name} is none. Use prompt_last.")
    answering, anatomy = answering_layer(model, hparams), anatomy_of(model)
    if answering is None:
        return
    if answering[1] is find_layer(model, hparams)[1]:
        raise ModelError(
            f"answer_layer: {answering[0]} is the layer at which subjects are found; name a later one, or none to have "
            "the value at the subject's token."
        )
    if anatomy is None:
        return
    finds, answers = anatomy.block_of(find_layer(model, hparams)[0]), anatomy.block_of(answering[0])
    if answers is None:
        raise ModelError(
            f"answer_layer: {answering[0]} is in none of the model's blocks; name a layer of a later block."
        )
    if finds is not None and answers <= finds:
        raise ModelError(
            f"answer_layer: {answering[0]} is in block {answers}, but subjects are found in block {finds}; name a "
            "layer of a later block."
        )
