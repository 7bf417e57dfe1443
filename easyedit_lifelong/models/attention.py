"""Faster grouped-query attention for passes that compute few tokens.

Models with fewer key heads than query heads copy keys and values for every query head. If a pass computes a few new
tokens after a long cache, that copy and its gradient take longer than the attention.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import transformers
from torch import Tensor, nn
from torch.nn import functional as F

_NAME = "sdpa"
_HANDLED = {"module", "query", "key", "value", "attention_mask", "dropout", "scaling", "is_causal", "kwargs"}
"""Parameters of transformers' function that the replacement handles (``is_causal`` only matters without a mask)."""

_GROUPS: ContextVar[bool] = ContextVar("groups", default=False)
"""Whether this thread is in :func:`grouped_queries`. Other threads may run other models at the same time."""


@contextlib.contextmanager
def grouped_queries() -> Iterator[None]:
    """In this context, compute query heads that share keys and values as one head with more tokens.

    The products are the same, but keys and values aren't copied. Nothing changes for a model with another attention
    function, where the mask differs between heads, or in other threads.
    """
    with _REPLACEMENT.installed():
        before = _GROUPS.set(True)
        try:
            yield
        finally:
            _GROUPS.reset(before)


class _Replacement:
    """Replaces transformers' attention function, which all models share, as long as any thread needs it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._contexts: set[object] = set()
        self._restore: Callable[[], None] = lambda: None

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Install the replacement for the first context, and restore the function at the end of the last one."""
        context = object()
        try:
            with self._lock:
                if not self._contexts:
                    self._restore = _replace_function()
                self._contexts.add(context)
            yield
        finally:
            with self._lock:
                self._contexts.discard(context)
                if not self._contexts:
                    self._restore()


_REPLACEMENT = _Replacement()


def _replace_function() -> Callable[[], None]:
    """Replace transformers' attention function, and return what restores it."""
    # Not imported with this module: transformers.modeling_utils takes seconds, and a loaded model has imported it.
    functions = transformers.modeling_utils.ALL_ATTENTION_FUNCTIONS
    original = functions[_NAME]
    functions[_NAME] = _grouping(original)

    def restore() -> None:
        if original is type(functions)._global_mapping.get(_NAME):
            del functions[_NAME]
        else:
            functions[_NAME] = original

    return restore


def _grouping(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return an attention function that groups query heads where it can, and calls the original one elsewhere."""
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
        handled = _GROUPS.get() and all(kwargs.get(name) is None for name in unsupported)
        if group_size == 1 or not one_mask_for_all_heads or not handled:
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

    return attend
