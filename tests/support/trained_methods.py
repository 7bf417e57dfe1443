"""What the tests of methods with a trained network share: training for a tiny model, and the loss of unseen edits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from easyedit_lifelong import train_editor
from tests.support.tiny_models import build_model, build_tokenizer
from tests.support.training_records import training_records

PATHS = ["model.layers.2.mlp.down_proj", "model.layers.3.mlp.down_proj"]
"""The edited projections of the tiny Llama."""
UNSEEN = training_records(20, seed=1)
"""Records that no network is trained on."""


def train(hparams: Any, edits: int) -> Any:
    """Train a method for the tiny Llama, into the folder ``archive``; return the hyperparameters."""
    train_editor(
        build_model("llama"), build_tokenizer(), training_records(60), hparams, Path(hparams.archive), edits=edits
    )
    return hparams


def loss_of_unseen_edits(apply: Callable[..., Any], hparams: Any) -> float:
    """Return the mean of 0.1 · NLL + KL over unseen edits: NLL of the paraphrase, KL on the locality prompt.

    Each record is edited by itself on the unedited model.
    """
    model, tokenizer, total = build_model("llama"), build_tokenizer(), 0.0
    for record in UNSEEN:
        locality = torch.tensor([tokenizer(record["locality_prompt"])["input_ids"]])
        paraphrase = torch.tensor([tokenizer(record["rephrase_prompt"])["input_ids"]])
        target = tokenizer(record["target_new"])["input_ids"][0]
        with torch.no_grad():
            before = model(locality).logits[0].log_softmax(dim=1)
            _, rollback = apply(model, tokenizer, [record], hparams)
            after = model(locality).logits[0].log_softmax(dim=1)
            nll = -model(paraphrase).logits[0, -1].log_softmax(dim=0)[target]
        rollback()
        total += float(0.1 * nll + (before.exp() * (before - after)).sum(dim=1).mean())
    return total / len(UNSEEN)


def edited_weights(model: Any) -> list[torch.Tensor]:
    """Return the weights of the edited projections of the tiny Llama."""
    return [model.get_submodule(path).weight.detach().clone() for path in PATHS]
