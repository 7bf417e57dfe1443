"""Record everything about a model that an edit may change: its logits, state, hooks and attributes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from tests.conformance.method_cases import OTHER_PROMPTS, REQUESTS
from tests.support.tiny_models import DEVICE, build_tokenizer, state_of

PROMPTS = [*(request["prompt"] for request in REQUESTS), *OTHER_PROMPTS]
_END_TOKEN = 2
Logits = list[torch.Tensor]


def batch_of(prompts: Sequence[str], side: str = "left") -> dict[str, torch.Tensor]:
    """Return the tokens of prompts, padded on a side, and their position ids, which padding on the left needs."""
    tokenizer = build_tokenizer()
    tokenizer.padding_side = side
    batch = {**tokenizer(list(prompts), return_tensors="pt", padding=True)}
    batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    return {name: tensor.to(DEVICE) for name, tensor in batch.items()}


def logits_of(model: Any, prompts: Sequence[str] = PROMPTS) -> Logits:
    """Return the logits of each prompt, read alone."""
    with torch.no_grad():
        return [model(**batch_of([prompt])).logits for prompt in prompts]


def equal(first: Logits, second: Logits) -> bool:
    """Tell whether logits are bitwise the same."""
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def differing(first: Logits, second: Logits) -> list[str]:
    """Return the prompts whose logits differ."""
    return [prompt for prompt, a, b in zip(PROMPTS, first, second, strict=True) if not torch.equal(a, b)]


def generated(model: Any, prompts: Sequence[str], **options: Any) -> list[list[int]]:
    """Return the tokens that a model generates after prompts, greedily, all in one batch, without padding."""
    batch = batch_of(prompts)
    del batch["position_ids"]
    config = GenerationConfig(max_new_tokens=5, do_sample=False, pad_token_id=0, **options)
    output = model.generate(**batch, generation_config=config)
    rows = [row[batch["input_ids"].shape[1] :].tolist() for row in output]
    return [row[: row.index(_END_TOKEN)] if _END_TOKEN in row else row for row in rows]


@dataclass
class Snapshot:
    """Everything about a model that an edit may change, at one time."""

    logits: Logits
    state: dict[str, torch.Tensor]
    modules: dict[str, Any]


def snapshot_of(model: Any) -> Snapshot:
    """Record a model's logits and state, and every module's attributes, children, hooks and mode."""
    modules = {
        path: (
            sorted(vars(module)),
            type(module),
            module.training,
            {name: len(value) for name, value in vars(module).items() if name.endswith(("_hooks", "_modules"))},
        )
        for path, module in model.named_modules()
    }
    return Snapshot(logits_of(model), state_of(model), modules)


def assert_unchanged(model: Any, before: Snapshot) -> None:
    """Compare a model with its snapshot, bitwise."""
    now = snapshot_of(model)
    assert now.state.keys() == before.state.keys()
    assert [name for name in now.state if not torch.equal(now.state[name], before.state[name])] == []
    assert equal(now.logits, before.logits)
    assert now.modules == before.modules
