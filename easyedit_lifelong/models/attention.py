"""Faster grouped-query attention for passes that compute few tokens.

Models with fewer key heads than query heads copy keys and values for every query head. If a pass computes a few new
tokens after a long cache, that copy and its gradient take longer than the attention.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import transformers
from torch import Tensor, nn
from torch.nn import functional as F

_NAME = "sdpa"
_HANDLED = {"module", "query", "key", "value", "attention_mask", "dropout", "scaling", "is_causal", "kwargs"}
"""Parameters of transformers' function that the replacement handles (``is_causal`` only matters without a mask)."""


@contextlib.contextmanager
def grouped_queries() -> Iterator[None]:
    """In this context, compute query heads that share keys and values as one head with more tokens.

    The products are the same, but keys and values aren't copied. Nothing changes for a model with another attention
    function, or where the mask differs between heads.
    """
    # Not imported with this module: transformers.modeling_utils takes seconds, and a loaded model has imported it.
    functions = transformers.modeling_utils.ALL_ATTENTION_FUNCTIONS
    original = functions[_NAME]
    # A call that passes one of these arguments runs the original function.
    unsupported = (set(inspect.signature(original).parameters) - _HANDLED) | {"softcap"}

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
        rows, heads, tokens, _ = query.shape
        group_size = heads // key.shape[1]
        one_mask_for_all_heads = attention_mask is not None and attention_mask.shape[1:] == (1, tokens, key.shape[2])
        if group_size == 1 or not one_mask_for_all_heads or any(kwargs.get(name) is not None for name in unsupported):
            return original(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
        assert attention_mask is not None
        out = F.scaled_dot_product_attention(
            query.reshape(rows, key.shape[1], group_size * tokens, -1),
            key,
            value,
            attn_mask=attention_mask.repeat(1, 1, group_size, 1),
            dropout_p=dropout,
            scale=scaling,
        )
        return out.reshape(rows, heads, tokens, -1).transpose(1, 2).contiguous(), None

    functions[_NAME] = attend
    try:
        yield
    finally:
        if original is type(functions)._global_mapping.get(_NAME):
            del functions[_NAME]
        else:
            functions[_NAME] = original
