"""The values that GRACE trains for requests to a tiny model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from easyedit_lifelong import GraceHyperParams, apply_grace_to_model
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.methods.grace.training import restricted_training
from easyedit_lifelong.methods.grace.training.optimise import TrainedValue

REQUESTS = [
    EditRequest(case_id=0, prompt="the red fox", target_new="river"),
    EditRequest(case_id=1, prompt="the sea is", target_new="red"),
    EditRequest(case_id=2, prompt="a blue bird", target_new="stone"),
]


def hparams(**settings: Any) -> GraceHyperParams:
    """Return hyperparameters with which a tiny Llama learns :data:`REQUESTS`."""
    layer = "model.layers[1].mlp.down_proj.weight"
    values = {"model_name": "tiny", "device": "cpu", "inner_params": [layer], "edit_lr": 0.5, "n_iter": 60, **settings}
    return GraceHyperParams(**values)


def trained_values(
    model: Any, tokenizer: Any, hparams: GraceHyperParams, requests: Sequence[EditRequest] = REQUESTS
) -> list[TrainedValue]:
    """Edit a model with requests; return the trained values, in the order of the requests."""
    results: list[TrainedValue] = []
    train = restricted_training.train_and_check

    def recording(*arguments: Any) -> list[TrainedValue]:
        results.extend(trained := train(*arguments))
        return trained

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("easyedit_lifelong.methods.grace.training.train_batch.train_and_check", recording)
        apply_grace_to_model(model, tokenizer, list(requests), hparams)
    return results
