"""NeuralDB's edits of the tiny models, for the tests of this folder."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from easyedit_lifelong import NeuralDBHyperParams, Rollback
from easyedit_lifelong.data.request import as_requests
from easyedit_lifelong.methods.neuraldb.make_edits import FactEditing
from tests.support.easyedit_memit import NAMES
from tests.support.tiny_models import build_tokenizer

FRANCE = {"case_id": "france", "prompt": "the capital of France is", "target_new": "Rome", "subject": "France"}
HAMLET = {"case_id": "hamlet", "prompt": "who wrote Hamlet", "target_new": "Peru", "subject": "Hamlet"}
PIANO = {"case_id": "piano", "prompt": "king plays piano", "target_new": "winter", "subject": "piano"}
CORRECTED = {**FRANCE, "case_id": "corrected", "target_new": "song"}
OTHER_RELATION = {**FRANCE, "case_id": "relation", "prompt": "the capital of France but not", "target_new": "snow"}


def hparams_for(family: str = "llama", **settings: Any) -> NeuralDBHyperParams:
    """Return hyperparameters for block 1 of a tiny model; its keys are near each other, so gamma is large."""
    values = {
        "layers": [1],
        "gamma": 0.9,
        "context_template_length_params": [],
        "clamp_norm_factor": 10,
        "v_weight_decay": 0.0,
        "v_num_grad_steps": 20,
        "batch_size": 2,
        **NAMES[family],
    }
    return NeuralDBHyperParams(model_name="tiny", **{**values, **settings})


def edit(
    model: Any, *requests: dict[str, Any], targets: Tensor | None = None, family: str = "llama", **settings: Any
) -> Rollback[Any]:
    """Edit a model in place; return the rollback."""
    editing = FactEditing(model, build_tokenizer(), hparams_for(family, **settings))
    results, undo = editing.edit(as_requests(list(requests)), targets)
    return Rollback(undo, on_items=False, results=results)


def next_word(model: Any, prompt: str) -> str:
    """Return the most probable word after a prompt."""
    tokenizer = build_tokenizer()
    logits = model(**tokenizer(prompt, return_tensors="pt", return_token_type_ids=False).to(model.device)).logits
    return str(tokenizer.decode([int(logits[0, -1].argmax())]))
