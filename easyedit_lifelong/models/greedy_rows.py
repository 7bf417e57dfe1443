"""Greedy generation in which a row that has ended takes no further time."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.models.context_prefix import check_layers
from easyedit_lifelong.models.encoding import position_ids
from easyedit_lifelong.models.partial_pass import head_at_positions
from easyedit_lifelong.models.plain_models import reads_rows_plainly

Stop = Callable[[int, list[int]], bool]
"""``stop(row, tokens)`` returns whether a row ends after these new tokens."""


def can_drop_rows(model: Any) -> bool:
    """Return whether rows can be dropped while a model generates.

    They can if its modules are those of transformers, without hooks, and if it keeps the keys and values of all tokens.
    Edits that act through hooks store decisions about the rows that a generation began with.
    """
    if not reads_rows_plainly(model) or "past_key_values" not in inspect.signature(model.forward).parameters:
        return False
    try:
        check_layers(model.config)
    except ModelError:
        return False
    return True


@torch.no_grad()
def generate_rows(model: Any, head: nn.Module, ids: Tensor, mask: Tensor, stop: Stop) -> list[list[int]]:
    """Generate greedily until every row has ended. The cache and the passes hold the rows that have not ended.

    Args:
        model: a model for which :func:`can_drop_rows` is true.
        head: its output head.
        ids: the prompts' tokens, padded on the left, shape ``(rows, columns)``.
        mask: which columns hold tokens, same shape.
        stop: decides after every token whether its row ends.

    Returns:
        The new tokens of each row.
    """
    new: list[list[int]] = [[] for _ in ids]
    rows = list(range(len(ids)))
    cache = DynamicCache(config=model.config)
    positions = position_ids(mask)
    while rows:
        with head_at_positions(head, torch.arange(len(ids)), torch.full((len(ids),), ids.shape[1] - 1)):
            output = model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            )
        tokens = output.logits[0].argmax(dim=-1)
        kept = []
        for place, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
            new[row].append(token)
            if not stop(row, new[row]):
                kept.append(place)
        if len(kept) < len(rows):
            selected = torch.tensor(kept, dtype=torch.long, device=mask.device)
            rows, tokens = [rows[place] for place in kept], tokens[selected]
            mask, positions = mask[selected], positions[selected]
            if kept:
                cache.batch_select_indices(selected)
        ids = tokens.unsqueeze(1)
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        positions = positions[:, -1:] + 1
    return new
