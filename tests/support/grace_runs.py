"""GRACE's hyperparameters for runs on the tiny models."""

from __future__ import annotations

from typing import Any

from easyedit_lifelong.methods.grace.config import GraceHyperParams
from tests.support.tiny_models import FAMILIES


def grace_hparams(family: str = "llama", **values: Any) -> GraceHyperParams:
    """Return hyperparameters with which the tiny models learn most facts."""
    defaults = {"n_iter": 60, "eps": 0.5, "stop_loss": 0.5}
    return GraceHyperParams(model_name=family, inner_params=[FAMILIES[family][1]], **{**defaults, **values})
