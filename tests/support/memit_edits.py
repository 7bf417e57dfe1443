"""Hyperparameters and editors of the native MEMIT on the tiny models."""

from __future__ import annotations

from typing import Any

import torch

from easyedit_lifelong import NativeMemitHyperParams
from easyedit_lifelong.methods.memit.editor import MemitEditor
from tests.support.coachhook_edits import TEMPLATES, moments_for, requests_for
from tests.support.coachhook_edits import hparams_for as coachhook_hparams
from tests.support.tiny_models import build_model, build_tokenizer

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


TARGETS = torch.randn(4, 32, generator=torch.Generator().manual_seed(2)) * 3
"""Random target vectors of the four facts of ``coachhook_edits``, shape ``(facts, width)``."""


def unedited(family: str = "llama", **options: Any) -> tuple[Any, Any, NativeMemitHyperParams]:
    """Return a model without edits, its tokenizer, and hyperparameters with few gradient steps."""
    return build_model(family), build_tokenizer(), hparams_for(family, v_num_grad_steps=4, **options)


def edited(*batches: tuple[int, ...], family: str = "llama", **options: Any) -> Any:
    """Return a model edited with batches of the facts of these numbers, towards :data:`TARGETS`."""
    model, tokenizer, hparams = unedited(family, **options)
    for numbers in batches or ((0, 1), (2, 3)):
        editor_on(model, tokenizer, hparams).edit(requests_for(*numbers), TARGETS[list(numbers)])
    return model
