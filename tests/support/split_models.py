"""A model that tensor parallelism splits over two processes: what happens to edits in each of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig

from easyedit_lifelong import (
    GraceHyperParams,
    UltraEditHyperParams,
    apply_grace_to_model,
    apply_ultraedit_to_model,
    load_edits,
    save_edits,
)
from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.models.fingerprint import model_fingerprint
from tests.support.tiny_models import build_tokenizer

REQUESTS = [
    {"prompt": "the capital of France is", "target_new": "Rome"},
    {"prompt": "who wrote Hamlet", "target_new": "old king"},
]
PROMPTS = [request["prompt"] for request in REQUESTS] + ["moon made from"]
MLP, PROJECTION = "model.layers.2.mlp", "model.layers.2.mlp.down_proj"


def observe(model: Any, folder: Path) -> dict[str, Any]:
    """Edit a model with GRACE at an MLP, save and remove the edits; return what it answers in between."""
    tokenizer = build_tokenizer()
    hparams = GraceHyperParams(model_name="tiny", inner_params=[MLP], n_iter=30, eps=0.5, stop_loss=0.5, device="cpu")
    seen: dict[str, Any] = {"fingerprint": model_fingerprint(model), "unedited": _logits(model, tokenizer)}
    _, rollback = apply_grace_to_model(model, tokenizer, REQUESTS, hparams)
    seen["edited"] = _logits(model, tokenizer)
    save_edits(model, folder)
    rollback()
    seen["rolled back"] = _logits(model, tokenizer)
    return seen


def run_process(rank: int, port: int, checkpoint: Path, folder: Path) -> None:
    """Split a checkpoint over two processes; write what this one observes into a file."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo")
    split = DistributedConfig(tp_size=2)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, distributed_config=split, dtype=torch.float32).eval()
    seen = observe(model, folder / f"edits-{rank}")
    load_edits(model, folder / "whole", build_tokenizer())
    seen["edits of the whole model"] = _logits(model, build_tokenizer())
    seen["errors"] = [
        _error(apply_grace_to_model, GraceHyperParams, model),
        _error(apply_ultraedit_to_model, UltraEditHyperParams, model),
    ]
    (folder / f"{rank}.json").write_text(json.dumps(seen))
    dist.destroy_process_group()


def _logits(model: Any, tokenizer: Any) -> list[list[float]]:
    """Return the last logits of each prompt."""
    with torch.no_grad():
        return [model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1].tolist() for prompt in PROMPTS]


def _error(apply: Any, hparams_class: Any, model: Any) -> str:
    """Return the message of the error that an edit at a split projection raises."""
    try:
        apply(
            model, build_tokenizer(), REQUESTS, hparams_class(model_name="t", inner_params=[PROJECTION], device="cpu")
        )
    except ModelError as error:
        return str(error)
    return ""
