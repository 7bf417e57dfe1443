"""The fine-tuning methods and their ports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.methods.finetune.config import FineTuneHyperParams
from easyedit_lifelong.methods.finetune.editor import EDITORS, apply_finetune_to_model
from easyedit_lifelong.methods.training.examples import encode_request
from easyedit_lifelong.methods.weight_updates.batch_method import batch_method
from easyedit_lifelong.methods.weight_updates.check import check_projections
from easyedit_lifelong.models.load import context_length

SHOWN_SETTINGS = (
    *("order", "num_steps", "lr", "stop_when_correct", "stop_loss"),
    *("norm_constraint", "ewc_lambda", "retrain_frequency", "with_history"),
)
"""The hyperparameters that ``inspect`` shows."""


def check_requests(model: Any, tokenizer: Any, hparams: FineTuneHyperParams, requests: Sequence[EditRequest]) -> None:
    """Check each request by itself.

    Raises:
        DataError: a request cannot be encoded, or is too long for the model.
    """
    for request in requests:
        encode_request(tokenizer, request, hparams.eos, context_length(model))


METHODS = tuple(
    batch_method(
        editor_class,
        apply_finetune_to_model,
        editor_class.hparams_class.ALG_NAME,
        SHOWN_SETTINGS,
        check=lambda model, tokenizer, hparams: check_projections(model, hparams),
        check_requests=check_requests,
    )
    for editor_class in EDITORS
)
"""``FT-native``, ``FT-L``, ``FT-EWC``, ``FT-Retrain`` and ``LocFT-BF``."""
