"""What has to fit between GRACE's hyperparameters and a model."""

from __future__ import annotations

from typing import Any

from torch import nn

from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.models.kinds import Kind, kind_of
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.models.stacks import stack_of


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
    in_decoder = kind is Kind.SEQ2SEQ and stack_of(model, layer) is not model.get_encoder()
    if in_decoder and hparams.replacement == "replace_prompt":
        raise ModelError(
            f"replacement: nothing stands before the start token of {name}'s decoder that replace_prompt could "
            "replace. Use replace_last or replace_all, or name a layer of the encoder."
        )


def find_layer(model: Any, hparams: GraceHyperParams) -> tuple[str, nn.Module]:
    """Return the path and the module of the layer that the hyperparameters name.

    Raises:
        ModelError: there is none.
    """
    try:
        return find_module(model, hparams.inner_params[0])
    except ModelError as error:
        where = f"{hparams.source}, inner_params: " if hparams.source else ""
        raise ModelError(f"{where}{error}") from None
