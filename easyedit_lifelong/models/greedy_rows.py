"""Greedy generation in which a row that has ended takes no further time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.models.plain_models import reads_rows_plainly
from easyedit_lifelong.models.row_cache import RowCache, has_plain_cache, prefill

Stop = Callable[[int, list[int]], bool]
"""``stop(row, tokens)`` returns whether a row ends after these new tokens."""


def can_drop_rows(model: Any) -> bool:
    """Return whether rows can be dropped while a model generates.

    They can if its modules are those of transformers, without hooks, and if it keeps the keys and values of all tokens.
    Edits that act through hooks store decisions about the rows that a generation began with.
    """
    return reads_rows_plainly(model) and has_plain_cache(model)


@torch.no_grad()
def generate_rows(model: Any, ids: Tensor, mask: Tensor, stop: Stop) -> list[list[int]]:
    """Generate greedily until every row has ended. The cache and the passes hold the rows that have not ended.

    Args:
        model: a model for which :func:`can_drop_rows` is true.
        ids: the prompts' tokens, padded on the left, shape ``(rows, columns)``.
        mask: which columns hold tokens, same shape.
        stop: decides after every token whether its row ends.

    Returns:
        The new tokens of each row.
    """
    new: list[list[int]] = [[] for _ in ids]
    rows, cache = list(range(len(ids))), RowCache()
    logits, prompts = prefill(model, ids, mask)
    cache.add_rows(prompts, mask.sum(dim=1).tolist())
    while True:
        tokens = logits[:, -1].argmax(dim=-1)
        kept = []
        for place, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
            new[row].append(token)
            if not stop(row, new[row]):
                kept.append(place)
        if not kept:
            return new
        if len(kept) < len(rows):
            rows, tokens = [rows[place] for place in kept], tokens[kept]
            cache.keep_rows(kept)
        logits = model(**cache.next_pass(tokens)).logits
