"""GRACE edits by prompt on the tiny model of any family."""

from __future__ import annotations

from typing import Any

from easyedit_lifelong import GraceHyperParams
from tests.support.tiny_models import FAMILIES

EDITS = [
    {"prompt": "the capital of France is", "target_new": "Rome"},
    {"prompt": "Hamlet is from", "target_new": "Peru"},
    {"prompt": "who plays piano when summer is far away", "target_new": "king"},
    {"prompt": "moon", "target_new": "cheese"},
]
PROMPTS = [edit["prompt"] for edit in EDITS]
TARGETS = [edit["target_new"] for edit in EDITS]
UNRELATED_PROMPTS = ["snow and mountain", "where was the old river born", "blue", "language spoken in Peru is not"]
"""Prompts that no edit is about."""


def hparams_for(family: str, **options: Any) -> GraceHyperParams:
    """Return hyperparameters with which every edit is learned."""
    return GraceHyperParams(
        model_name="tiny", inner_params=[FAMILIES[family][1]], **{"eps": 0.5, "n_iter": 60, "stop_loss": 0.2, **options}
    )
