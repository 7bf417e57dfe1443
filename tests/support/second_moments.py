"""Texts of the tiny tokenizer's words, and reference second moments, computed text by text in float64."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.support.tiny_models import WORDS

MODULES = {
    "gpt2": "transformer.h.{}.mlp.c_proj",
    "gptj": "transformer.h.{}.mlp.fc_out",
    "llama": "model.layers.{}.mlp.down_proj",
    "qwen2": "model.layers.{}.mlp.down_proj",
    "mistral": "model.layers.{}.mlp.down_proj",
    "gemma2": "model.layers.{}.mlp.down_proj",
}


def make_texts(count: int, seed: int = 0, longest: int = 40) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choice(WORDS) for _ in range(rng.randint(1, longest))) for _ in range(count)]


def float64_sums(model: Any, tokenizer: Any, modules: Sequence[str], texts: Sequence[str]) -> dict[str, Tensor]:
    """Sum k kᵀ in float64, on a float64 copy of the model, one text at a time, without padding."""
    double = copy.deepcopy(model).double()
    sums: dict[str, Tensor] = {}

    def hook(path: str) -> Any:
        def add(module: Any, args: Any) -> None:
            keys = args[0].reshape(-1, args[0].shape[-1])
            sums[path] = sums.get(path, 0) + keys.T @ keys

        return add

    for path in modules:
        double.get_submodule(path).register_forward_pre_hook(hook(path))
    with torch.no_grad():
        for text in texts:
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            if ids.shape[1]:
                double(input_ids=ids)
    return sums


def count_tokens(tokenizer: Any, texts: Sequence[str]) -> int:
    return sum(len(tokenizer(text)["input_ids"]) for text in texts)


def assert_close(moment: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Compare second moments entry by entry, on the scale of the diagonal."""
    scale = expected.diagonal().double().clamp(min=1e-12).sqrt()
    error = (moment.double() - expected.double()).abs() / (scale[:, None] * scale[None, :])
    assert float(error.max()) < tolerance
