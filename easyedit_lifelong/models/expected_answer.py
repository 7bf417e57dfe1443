"""Greedy text that is expected to begin with an answer: one pass reads prompt and answer, as in assisted decoding."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from typing import Any

import torch

from easyedit_lifelong.models.devices import input_device
from easyedit_lifelong.models.linear import FewTokenLinears
from easyedit_lifelong.models.model_modes import evaluating
from easyedit_lifelong.models.prompt_positions import PositionTracker
from easyedit_lifelong.models.row_cache import RowCache, prefill
from easyedit_lifelong.models.windows import Generation


@torch.no_grad()
def text_with_answer(
    model: Any, prompt: Sequence[int], answer: Sequence[int], further: int, ends: Collection[int]
) -> list[int] | None:
    """Generate greedily after a prompt, in few passes if the text begins with an expected answer.

    Args:
        model: a model for which :func:`.can_cache_rows` is true, or such a model with edits that act by row.
        prompt: the ids of the prompt's tokens.
        answer: the ids of the expected tokens, at least one.
        further: how many tokens the text has after the answer, at most; at least one.
        ends: the ids of end tokens. The text ends after the first of them.

    Returns:
        The ids of the text, the answer included; None if the text does not begin with the answer.
    """
    ids = torch.tensor([[*prompt, *answer]], device=input_device(model))
    mask, tracker, cache = torch.ones_like(ids), PositionTracker.of(model), RowCache()
    generation = Generation(mask[:, : len(prompt)].bool(), ids[:, : len(prompt)])
    with (
        evaluating(model),
        FewTokenLinears.for_generation(model).active(),
        contextlib.nullcontext() if tracker is None else tracker.generating(generation),
    ):
        logits, read = prefill(model, ids, mask, keep=len(answer) + 1)
        *text, following = logits[0].argmax(dim=-1).tolist()
        if text != list(answer):
            return None
        cache.add_rows(read, [ids.shape[1]])
        while text[-1] not in ends:
            text.append(following)
            if len(text) == len(answer) + further:
                break
            logits = model(**cache.next_pass(torch.tensor([following], device=ids.device))).logits
            following = int(logits[0, -1].argmax())
    return text
