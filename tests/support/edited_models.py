"""Models edited by GRACE, by CoachHook, and by both on different layers, and what they generate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import GenerationConfig

from easyedit_lifelong.methods.coachhook.editor import CoachHookEditor
from easyedit_lifelong.methods.grace.editor import GraceEditor
from tests.support.coachhook_edits import FACTS, OTHERS
from tests.support.saved_edits import coachhook, grace
from tests.support.tiny_models import build_tokenizer

PROMPTS = [prompt for prompt, _, _ in FACTS]


def edit_with_both(model: Any, family: str) -> Any:
    """Edit the first blocks with CoachHook and a later one with GRACE."""
    coachhook(model, family, layers=[0, 1])
    return grace(model, family)


EDITS: dict[str, Callable[[Any, str], Any]] = {"GRACE": grace, "CoachHook": coachhook, "both": edit_with_both}
"""Ways to edit a model, by name."""


def inputs_of(*prompts: str, side: str = "left") -> dict[str, torch.Tensor]:
    """Return the tokens of prompts, padded on one side."""
    tokenizer = build_tokenizer()
    tokenizer.padding_side = side
    return {**tokenizer(list(prompts), return_tensors="pt", padding=True)}


def plan(tokens: int = 6, **options: Any) -> GenerationConfig:
    """Return a configuration for greedy generation of so many tokens; options replace its values."""
    return GenerationConfig(**{"max_new_tokens": tokens, "do_sample": False, "pad_token_id": 0, **options})


def answers(model: Any, prompts: list[str] | None = None, **options: Any) -> list[list[int]]:
    """Return the tokens that a model generates after each prompt, one prompt at a time."""
    generated = []
    for prompt in prompts or [*PROMPTS, *OTHERS]:
        inputs = inputs_of(prompt)
        output = model.generate(**inputs, generation_config=plan(**options))
        generated.append(output[0, inputs["input_ids"].shape[1] :].tolist())
    return generated


def remove_all_edits(model: Any) -> None:
    """Remove all edits from a model."""
    for editor in GraceEditor.all_of(model).values():
        editor.undo_to(0)
    coachhook = CoachHookEditor.of(model)
    if coachhook is not None:
        coachhook._restore(0, dict.fromkeys(coachhook.hooks))
