"""Attention for a few tokens of many rows, where heads share keys and values.

Models with fewer key heads than query heads repeat keys and values for every query head that reads them. For a handful
of new tokens behind a long cache, that copy, and its gradient, cost more than attending does.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_NAME = "sdpa"
_UNDERSTOOD = {"module", "query", "key", "value", "attention_mask", "dropout", "scaling", "is_causal", "kwargs"}
"""Arguments of transformers' function that are heeded here (with a mask, ``is_causal`` says nothing)."""


@contextlib.contextmanager
def grouped_queries() -> Iterator[None]:
    """Have the heads that share keys and values attend as one head with more tokens, in the passes inside.

    The products are the same, without a copy for every head. Where the model attends in a way of its own, or the mask
    isn't the same for all heads, nothing changes.
    """
    own = ALL_ATTENTION_FUNCTIONS[_NAME]
    special = set(inspect.signature(own).parameters) - _UNDERSTOOD | {"softcap"}

    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Any]:
        (rows, heads, tokens, _), shared = query.shape, query.shape[1] // key.shape[1]
        plain = attention_mask is not None and attention_mask.shape[1:] == (1, tokens, key.shape[2])
        if shared == 1 or not plain or any(kwargs.get(name) is not None for name in special):
            return own(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
        assert attention_mask is not None
        out = F.scaled_dot_product_attention(
            query.reshape(rows, key.shape[1], shared * tokens, -1),
            key,
            value,
            attn_mask=attention_mask.repeat(1, 1, shared, 1),
            dropout_p=dropout,
            scale=scaling,
        )
        return out.reshape(rows, heads, tokens, -1).transpose(1, 2).contiguous(), None

    ALL_ATTENTION_FUNCTIONS[_NAME] = attend
    try:
        yield
    finally:
        if own is type(ALL_ATTENTION_FUNCTIONS)._global_mapping.get(_NAME):
            del ALL_ATTENTION_FUNCTIONS[_NAME]
        else:
            ALL_ATTENTION_FUNCTIONS[_NAME] = own
