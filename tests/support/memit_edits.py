"""Hyperparameters and editors of the native MEMIT on the tiny models."""

from __future__ import annotations

from typing import Any

from easyedit_lifelong import NativeMemitHyperParams
from easyedit_lifelong.methods.memit.editor import MemitEditor
from tests.support.coachhook_edits import TEMPLATES, moments_for
from tests.support.coachhook_edits import hparams_for as coachhook_hparams

SHARED = (
    "layers",
    "mom2_update_weight",
    "clamp_norm_factor",
    "v_weight_decay",
    "v_num_grad_steps",
    "batch_size",
    "rewrite_module_tmp",
    "layer_module_tmp",
)


def hparams_for(family: str, **options: Any) -> NativeMemitHyperParams:
    """Return hyperparameters with which the tiny models learn in a few steps, as in the tests of CoachHook."""
    values = {name: getattr(coachhook_hparams(family), name) for name in SHARED}
    return NativeMemitHyperParams(model_name="tiny", **{**values, **options})


def editor_on(model: Any, tokenizer: Any, hparams: NativeMemitHyperParams) -> MemitEditor:
    """Put the editor on a model, with second moments of random keys."""
    return MemitEditor.on(model, tokenizer, hparams, moments_for(model, hparams), TEMPLATES)
