"""Put a text in front of the rows of a forward pass without changing the columns of the pass.

The model reads the texts in a pass of their own. Their keys and values then stand before those of the rows, as if a
key-value cache had held them. So logits, labels, hidden states and hooks of the pass have the columns that the caller
sent, and the result is that of the rows with the texts in front of them, up to rounding.

The caller's own cache never holds the texts: :class:`PrefixedCache` adds them in every pass.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from easyedit_lifelong.errors import EditError, ModelError
from easyedit_lifelong.models.encoding import pad_rows, position_ids
from easyedit_lifelong.models.model_modes import evaluating
from easyedit_lifelong.models.overrides import without_hooks
from easyedit_lifelong.models.windows import repeat_rows


@dataclass(frozen=True)
class ContextPrefix:
    """The texts in front of the rows of a batch. A row without a text has a prefix that is padding only.

    Attributes:
        keys: the keys of each layer, shape ``(rows, heads, columns, width)``.
        values: the values of each layer, same shape but for the width.
        real: which columns hold tokens, shape ``(rows, columns)``. Texts are padded on the left.
        unseen: which of a row's own columns the model must not see, shape ``(rows, columns of the rows)``: tokens that
            begin a text, and that the prefix begins with already.
    """

    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    real: Tensor
    unseen: Tensor

    @property
    def columns(self) -> int:
        """The number of columns."""
        return self.real.shape[1]

    def for_batch(self, batch: int) -> ContextPrefix:
        """Return the prefix for a batch that repeats each row for its beams or samples."""
        if batch == len(self.real):
            return self
        keys, values = ([repeat_rows(layer, batch) for layer in layers] for layers in (self.keys, self.values))
        return ContextPrefix(keys, values, repeat_rows(self.real, batch), repeat_rows(self.unseen, batch))


class PrefixedCache(Cache):
    """A key-value cache, with a prefix in front of its columns.

    Args:
        cache: the cache of the rows' own tokens. Passes extend it.
        prefix: the prefix.
        returned: what the caller gets as the cache of the pass: ``cache``, or None if the caller wants none.

    Attributes:
        returned: as given.
    """

    def __init__(self, cache: Cache, prefix: ContextPrefix, returned: Cache | None) -> None:
        super().__init__(layers=cache.layers)
        self.returned = returned
        self._cache, self._prefix = cache, prefix

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """Extend a layer's cache; return the keys and values of the prefix, the cached and the new tokens."""
        in_window = self._begins_at(layer_idx, key_states.shape[-2]) == 0
        keys, values = self._cache.update(key_states, value_states, layer_idx, *args, **kwargs)
        if not in_window:
            return keys, values
        prefix_keys, prefix_values = self._prefix.keys[layer_idx], self._prefix.values[layer_idx]
        return torch.cat([prefix_keys, keys], dim=-2), torch.cat([prefix_values, values], dim=-2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of columns, those of the prefix included."""
        return self._prefix.columns + self._cache.get_seq_length(layer_idx)

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Return the number of columns that a layer attends to, and the first of them."""
        length, offset = self._cache.get_mask_sizes(query_length, layer_idx)
        # A layer with a sliding window drops the rows' own first columns only when the prefix is out of the window.
        return (length, offset + self._prefix.columns) if offset else (length + self._prefix.columns, 0)

    def _begins_at(self, layer_idx: int, query_length: int) -> int:
        """Return the first of the rows' own columns that a layer still holds."""
        return self._cache.get_mask_sizes(query_length, layer_idx)[1]


def check_layers(config: Any) -> None:
    """Check that every layer of a model attends to cached keys and values.

    Raises:
        ModelError: a layer has another state (linear attention, state-space models), or shares that of another layer.
    """
    for layer in DynamicCache(config=config).layers:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise ModelError(
                f"a layer of this model keeps {type(layer).__name__} and not the keys and values of all tokens, so no "
                "text can be put in front of a prompt"
            )


def read_contexts(inner: nn.Module, contexts: Sequence[Sequence[int] | None], unseen: Tensor) -> ContextPrefix:
    """Run a model on the texts of a batch, each once, and return them as a prefix.

    Hooks do not see this pass, since their positions are those of the batch.

    Args:
        inner: the model without its head.
        contexts: the token ids of each row's text; None for a row without one. At least one row has one.
        unseen: see :class:`ContextPrefix`.
    """
    distinct = list(dict.fromkeys(tuple(context) for context in contexts if context is not None))
    ids, mask = pad_rows(distinct, 0, "left", unseen.device)
    cache = DynamicCache()
    arguments = {"position_ids": position_ids(mask)} if takes_positions(inner) else {}
    with without_hooks(inner), evaluating(inner):
        inner(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **arguments)
    row_of = {context: row for row, context in enumerate(distinct)}
    rows = torch.tensor([0 if context is None else row_of[tuple(context)] for context in contexts])
    has_text = torch.tensor([context is not None for context in contexts], device=mask.device)
    keys = [layer.keys[rows.to(layer.keys.device)] for layer in cache.layers]
    values = [layer.values[rows.to(layer.values.device)] for layer in cache.layers]
    return ContextPrefix(keys, values, mask[rows.to(mask.device)].bool() & has_text.unsqueeze(1), unseen)


def prefixed_arguments(
    inner: nn.Module, config: Any, arguments: dict[str, Any], real: Tensor, past: int, prefix: ContextPrefix
) -> dict[str, Any]:
    """Return the arguments of a pass with a prefix in front of its rows.

    Args:
        inner: the model without its head.
        config: the model's configuration.
        arguments: the arguments of the pass by name.
        real: which columns hold tokens, cached ones included, shape ``(rows, columns)``.
        past: the number of cached columns.
        prefix: the prefix.

    Raises:
        EditError: the model has a sliding window, in which the prefix of a padded row would be cut off too early.
    """
    batch, columns = real.shape
    prefix = prefix.for_batch(batch)
    given = arguments.get("past_key_values")
    cache = DynamicCache(config=config) if given is None else given
    _check_window(cache, prefix, real)
    use_cache = arguments.get("use_cache")
    wants_cache = given is not None or (getattr(config, "use_cache", False) if use_cache is None else use_cache)
    unseen = torch.zeros_like(real)
    prompt_columns = min(columns, prefix.unseen.shape[1])
    unseen[:, :prompt_columns] = prefix.unseen[:, :prompt_columns]
    mask = torch.cat([prefix.real, real & ~unseen], dim=1).long()
    prefixed = {
        **arguments,
        "attention_mask": mask,
        "past_key_values": PrefixedCache(cache, prefix, cache if wants_cache else None),
    }
    if takes_positions(inner):
        positions = arguments.get("position_ids")
        if positions is None:
            # Padding must not stand between a text and its row. A row without a text keeps the positions that the model
            # gives it.
            has_text = prefix.real.any(dim=1, keepdim=True)
            of_columns = torch.arange(past, columns, device=real.device).unsqueeze(0)
            positions = torch.where(has_text, position_ids(real.long())[:, past:], of_columns)
        prefixed["position_ids"] = positions + (prefix.real.sum(dim=1) - prefix.unseen.sum(dim=1)).unsqueeze(1)
    return prefixed


def without_prefix(output: Any) -> Any:
    """Return a model's output with the cache that the caller gets, in place of a :class:`PrefixedCache`."""
    if isinstance(output, tuple):
        return tuple(part.returned if isinstance(part, PrefixedCache) else part for part in output)
    values = {
        name: value.returned if isinstance(value, PrefixedCache) else value for name, value in dict(output).items()
    }
    return type(output)(**values)


def takes_positions(inner: nn.Module) -> bool:
    """Return whether a model takes ``position_ids``. Others compute positions from the attention mask."""
    return "position_ids" in inspect.signature(inner.forward).parameters


def _check_window(cache: Cache, prefix: ContextPrefix, real: Tensor) -> None:
    """Check that padding between a prefix and its row does not move the prefix out of a sliding window.

    Raises:
        EditError: it does.
    """
    windows = [layer.sliding_window for layer in cache.layers if getattr(layer, "is_sliding", False)]
    if not windows or prefix.columns + real.shape[1] <= min(windows):
        return
    if bool((prefix.real.any(dim=1) & ~real[:, 0]).any()):
        raise EditError(
            f"a text and its prompt are longer than the model's sliding window of {min(windows)} tokens, and the "
            "prompt is padded on the left, so the window would be shorter than without padding. Run such prompts one "
            "by one."
        )
