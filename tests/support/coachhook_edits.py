"""Facts, hyperparameters and second moments for CoachHook on the tiny models."""

from __future__ import annotations

from typing import Any

import torch

from easyedit_lifelong import CoachHookHyperParams
from easyedit_lifelong.covariance import SecondMoment
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.methods.coachhook.editor import CoachHookEditor
from easyedit_lifelong.models.anatomy import projection_shape
from easyedit_lifelong.models.modules import find_module

FACTS = [
    ("the capital of France is", "Rome", "France"),
    ("Hamlet wrote old song", "blue sea", "Hamlet"),
    ("Shakespeare plays piano and violin", "London moon", "Shakespeare"),
    ("river city moon made from", "cheese", "moon"),
]
LEARNABLE_FACT = ("who wrote Hamlet", "Peru", "Hamlet")
"""A fact that every tiny model learns: its subject is its last token, where the answer is read."""
OTHERS = ["snow and mountain", "where was the old river born", "blue", "language spoken in Peru is not"]
PLAIN = [["{}"]]
TEMPLATES = [["{}"], ["the old king . {}", "but not far . {}"]]

_NAMES = {
    "gpt2": ("transformer.h.{}.mlp.c_proj", "transformer.h.{}"),
    "gptj": ("transformer.h.{}.mlp.fc_out", "transformer.h.{}"),
}


def requests_for(*numbers: int) -> list[EditRequest]:
    """Return the facts with these numbers, or all of them if none are given."""
    return [
        EditRequest(i, prompt, target, subject)
        for i, (prompt, target, subject) in enumerate(FACTS)
        if not numbers or i in numbers
    ]


def hparams_for(family: str, **options: Any) -> CoachHookHyperParams:
    """Return hyperparameters with which the tiny models learn in a few steps."""
    rewrite, block = _NAMES.get(family, ("model.layers.{}.mlp.down_proj", "model.layers.{}"))
    defaults: dict[str, Any] = {
        "layers": [0, 1, 2],
        "mom2_update_weight": 1.0,
        "clamp_norm_factor": 10,
        "v_weight_decay": 0.0,
        "v_num_grad_steps": 12,
        "batch_size": 2,
        "rewrite_module_tmp": rewrite,
        "layer_module_tmp": block,
    }
    return CoachHookHyperParams(model_name="tiny", **{**defaults, **options})


def moments_for(model: Any, hparams: CoachHookHyperParams, count: int = 10_000) -> dict[str, SecondMoment]:
    """Return second moments of random keys, the same each time."""
    moments = {}
    for number, name in enumerate(hparams.rewrite_modules):
        path, module = find_module(model, name)
        size = projection_shape(module)[0]
        keys = torch.randn(4 * size, size, generator=torch.Generator().manual_seed(number)) * 0.1
        with torch.autocast("cpu", enabled=False):
            moments[path] = SecondMoment(keys.t() @ keys / len(keys), count, "a test")
    return moments


def editor_on(
    model: Any, tokenizer: Any, hparams: CoachHookHyperParams, templates: list[list[str]] | None = TEMPLATES
) -> CoachHookEditor:
    """Put the editor on a model."""
    return CoachHookEditor.on(model, tokenizer, hparams, moments_for(model, hparams), templates)


def attributes_and_hooks_of(model: Any) -> dict[str, Any]:
    """Return what an editor could leave behind on a model: the attributes and hooks of all modules."""
    return {
        name: (
            sorted(key for key in module.__dict__),
            sorted(module._modules),
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            module.training,
        )
        for name, module in model.named_modules()
    }


def equal_states(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Return whether two states have the same names and bitwise equal tensors."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
