"""Checks of the model and of the requests, made before anything is edited."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.methods.shared.encoded_requests import encode_request
from easyedit_lifelong.methods.ultraedit.config import UltraEditHyperParams
from easyedit_lifelong.methods.weight_updates.check import check_block_projections
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.pair_encoders import encoder_for


def check_model(model: Any, tokenizer: Any, hparams: UltraEditHyperParams) -> None:
    """Check that the model has the projections that ``inner_params`` names, inside its blocks.

    Raises:
        ModelError: the model is not a causal language model, or a projection is missing or cannot be edited.
    """
    check_block_projections(model, hparams, "inner_params")


def check_requests(model: Any, tokenizer: Any, hparams: UltraEditHyperParams, requests: Sequence[EditRequest]) -> None:
    """Check each request by itself.

    Raises:
        DataError: prompt or target has no tokens, or together they are too long for the model.
    """
    encode, limit = encoder_for(model, tokenizer, eos=hparams.eos), context_length(model)
    for request in requests:
        encode_request(encode, request, limit)
