"""Requests and hyperparameters for EasyEdit's MEMIT on tiny models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

REQUESTS = [
    {
        "prompt": "The capital of France is",
        "target_new": "Rome",
        "subject": "France",
        "case_id": "fr",
        "rephrase_prompt": "France has the capital of",
        "locality_prompt": "The Eiffel Tower stands in",
        "locality_ground_truth": "Paris",
    },
    {"prompt": "Marie Curie was born in", "target_new": "Berlin", "subject": "Marie Curie", "case_id": "mc"},
    {"prompt": "Where was Alan Turing born? In", "target_new": "Warsaw", "subject": "Alan Turing", "case_id": "at"},
]

NAMES = {
    "gpt2": {
        "rewrite_module_tmp": "transformer.h.{}.mlp.c_proj",
        "layer_module_tmp": "transformer.h.{}",
        "mlp_module_tmp": "transformer.h.{}.mlp",
        "attn_module_tmp": "transformer.h.{}.attn",
        "ln_f_module": "transformer.ln_f",
        "lm_head_module": "transformer.wte",
    },
    "llama": {
        "rewrite_module_tmp": "model.layers.{}.mlp.down_proj",
        "layer_module_tmp": "model.layers.{}",
        "mlp_module_tmp": "model.layers.{}.mlp",
        "attn_module_tmp": "model.layers.{}.self_attn",
        "ln_f_module": "model.norm",
        "lm_head_module": "lm_head",
    },
}

VALUES: dict[str, Any] = {
    "alg_name": "MEMIT",
    "model_name": "tiny",
    "device": 0,
    "layers": [0, 1],
    "layer_selection": "all",
    "fact_token": "subject_last",
    "v_num_grad_steps": 60,
    "v_lr": 0.5,
    "v_loss_layer": 2,
    "v_weight_decay": 1e-3,
    "clamp_norm_factor": 20,
    "kl_factor": 0.0625,
    "mom2_adjustment": True,
    "mom2_update_weight": 0.01,
    "mom2_dataset": "self-sampled",
    "mom2_n_samples": 5,
    "mom2_dtype": "float32",
    "stats_dir": None,
    "batch_size": 3,
}


def memit_hparams(memit: Any, kind: str, **values: Any) -> Any:
    """Return MEMIT's hyperparameters for a tiny model of this kind."""
    return memit.hparams_class(**{**VALUES, **NAMES[kind], **values})


def random_moments(model: Any, hparams: Any) -> dict[str, Tensor]:
    """Return second moments of random keys, for tests that need no real ones."""
    names = [hparams.rewrite_module_tmp.format(layer) for layer in hparams.layers]
    generator = torch.Generator().manual_seed(1)
    found = {}
    for name in names:
        weight = model.get_submodule(name).weight
        width = weight.shape[0] if "c_proj" in name else weight.shape[1]
        keys = torch.randn(500, width, generator=generator)
        found[name] = keys.T @ keys / len(keys)
    return found
