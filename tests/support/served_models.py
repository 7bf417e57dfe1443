"""Live models for the tests of serving: a tiny Llama with versioned edits in a folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from easyedit_lifelong import FTLHyperParams, GraceHyperParams
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.serving.edit_log import EditLog
from easyedit_lifelong.serving.live_model import LiveModel
from tests.support.tiny_models import build_model, build_tokenizer

FACTS = [
    ("the capital of France is", "Rome"),
    ("who wrote Hamlet", "old king"),
    ("moon made from", "snow"),
    ("language spoken in Peru", "bird"),
    ("the capital of France is", "London"),
    ("king plays piano", "winter"),
]
PROMPTS = [prompt for prompt, _ in FACTS[:4]]
OTHER_PROMPTS = ["snow and mountain", "where was the old river born", "blue"]

_LAYER = "model.layers[2].mlp.down_proj"


def grace() -> Any:
    """Hyperparameters of GRACE, whose edits are in a hook."""
    return GraceHyperParams(model_name="tiny", inner_params=[_LAYER], n_iter=20, eps=1.0)


def fine_tuning() -> Any:
    """Hyperparameters of FT-L, whose edits are in the weights, and are removed in batches."""
    return FTLHyperParams(
        model_name="tiny",
        layers=[2],
        rewrite_module_tmp="model.layers.{}.mlp.down_proj",
        norm_constraint=0.05,
        num_steps=8,
        lr=1e-2,
        stop_when_correct=False,
        stop_loss=0,
    )


def requests(*numbers: int) -> list[EditRequest]:
    """Requests for facts of :data:`FACTS`, with the ids ``f0``, ``f1``, …."""
    return [EditRequest(f"f{number}", *FACTS[number]) for number in numbers]


@contextlib.contextmanager
def live_model(folder: Path, hparams: Any = None) -> Iterator[LiveModel]:
    """A live model on a folder, which is released at the end."""
    hparams = hparams or grace()
    log = EditLog(folder)
    try:
        yield LiveModel(build_model("llama"), build_tokenizer(), hparams, get_plugins().method_for(hparams), log)
    finally:
        log.close()


def logits(model: Any, prompts: list[str] = [*PROMPTS, *OTHER_PROMPTS]) -> list[torch.Tensor]:  # noqa: B006
    """The logits of each prompt, alone."""
    tokenizer = build_tokenizer()
    with torch.no_grad():
        return [model(**tokenizer(prompt, return_tensors="pt")).logits for prompt in prompts]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    """Whether all logits are bitwise equal."""
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
