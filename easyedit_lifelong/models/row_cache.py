"""A key-value cache of rows that begin and end at different times."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.models.context_prefix import check_layers, takes_positions
from easyedit_lifelong.models.devices import input_device
from easyedit_lifelong.models.encoding import pad_rows, position_ids
from easyedit_lifelong.models.model_modes import evaluating
from easyedit_lifelong.models.overrides import without_hooks
from easyedit_lifelong.models.partial_pass import same_logits

# Not an attribute of the model: a model without edits has no trace of this package. Edits do not change the result.
_RESULTS: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()

_TRIAL_LENGTHS = (3, 7, 5)
"""Numbers of tokens of the rows that a model is tried on."""

_PAD = 1
"""An ordinary token: the embedding of the padding token can be 0, which hides an effect of padding."""


def has_plain_cache(model: Any) -> bool:
    """Return whether a model takes positions, and caches keys and values of all tokens that no later token changes.

    With RoPE whose frequencies depend on the longest row of a pass (``dynamic``, ``longrope``), later tokens change
    them.
    """
    if not isinstance(model, transformers.PreTrainedModel) or not takes_positions(model):
        return False
    if "past_key_values" not in inspect.signature(model.forward).parameters or _has_varying_rope(model.config):
        return False
    try:
        check_layers(model.config)
    except ModelError:
        return False
    return True


def _has_varying_rope(config: Any) -> bool:
    """Return whether the frequencies of rotary positions depend on the length of the longest row."""
    parameters = getattr(config.get_text_config(), "rope_parameters", None) or {}
    of_layer_types = [value for value in parameters.values() if isinstance(value, dict)]
    types = [str(entry.get("rope_type")) for entry in (parameters, *of_layer_types)]
    return any(name == "longrope" or "dynamic" in name for name in types)


def can_cache_rows(model: Any) -> bool:
    """Return whether rows of different lengths can share a :class:`RowCache` of a model.

    They can if each layer attends to the keys and values of all tokens, and if the model takes positions and ignores
    padding. The model is tried once; later calls return the same.
    """
    if model not in _RESULTS:
        _RESULTS[model] = has_plain_cache(model) and _try_rows(model)
    return _RESULTS[model]


def prefill(model: Any, ids: Tensor, mask: Tensor, keep: int = 1) -> tuple[Tensor, DynamicCache]:
    """Run a model on prompts.

    Args:
        model: a model for which :func:`can_cache_rows` is true.
        ids: the tokens of the prompts, padded on the left, shape ``(prompts, columns)``.
        mask: which columns hold tokens, same shape.
        keep: the number of columns, from the last one back, whose next tokens are predicted.

    Returns:
        The logits of the next tokens, shape ``(prompts, keep, vocabulary)``, and the keys and values.
    """
    cache = DynamicCache()
    only_last = {"logits_to_keep": keep} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=position_ids(mask),
        past_key_values=cache,
        use_cache=True,
        **only_last,
    )
    return output.logits[:, -keep:], cache


class RowCache:
    """The keys and values of rows, whose tokens are at the right end of the columns, with padding before them.

    Layers with a sliding window keep all keys and values; the model's attention mask limits what they attend to.

    Attributes:
        cache: what forward passes read and extend.
        lengths: how many tokens of each row it holds.
    """

    def __init__(self) -> None:
        self.cache = DynamicCache()
        self.lengths: list[int] = []

    def add_rows(self, cache: DynamicCache, lengths: Sequence[int]) -> None:
        """Add rows.

        Args:
            cache: the keys and values of the rows' tokens, padded on the left.
            lengths: how many tokens each row has.
        """
        if not self.lengths:
            self.cache = cache
        else:
            columns = max(*self.lengths, *lengths)
            for layer, added in zip(self.cache.layers, cache.layers, strict=True):
                layer.keys = torch.cat([_padded(layer.keys, columns), _padded(added.keys, columns)])
                layer.values = torch.cat([_padded(layer.values, columns), _padded(added.values, columns)])
        self.lengths += lengths

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Remove all other rows, and the columns in which only these had tokens.

        Args:
            rows: the numbers of the rows to keep, in ascending order.
        """
        self.lengths = [self.lengths[row] for row in rows]
        if not rows:
            self.cache = DynamicCache()
            return
        columns = max(self.lengths)
        for layer in self.cache.layers:
            selected = torch.tensor(rows, device=layer.keys.device)
            layer.keys = layer.keys[selected, :, -columns:]
            layer.values = layer.values[selected, :, -columns:]

    def next_pass(self, tokens: Tensor) -> dict[str, Any]:
        """Return the arguments of a pass that reads one more token of each row, and count the tokens.

        Args:
            tokens: the ids, shape ``(rows,)``, on the device of the model's inputs.
        """
        positions = torch.tensor(self.lengths, device=tokens.device).unsqueeze(1)
        columns = torch.arange(max(self.lengths), -1, -1, device=tokens.device)  # distance from the new column
        self.lengths = [length + 1 for length in self.lengths]
        return {
            "input_ids": tokens.unsqueeze(1),
            "attention_mask": (columns <= positions).long(),
            "position_ids": positions,
            "past_key_values": self.cache,
            "use_cache": True,
        }


def _padded(states: Tensor, columns: int) -> Tensor:
    """Return keys or values, shape ``(rows, heads, tokens, width)``, with zeros before them: ``columns`` in all."""
    return F.pad(states, (0, 0, columns - states.shape[2], 0))


@torch.no_grad()
def _try_rows(model: Any) -> bool:
    """Return whether rows that join and leave have the logits that they have alone."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    rows = [[(5 * n + 3 * length) % vocabulary for n in range(length + 2)] for length in _TRIAL_LENGTHS]
    # The hooks of edits are for prompts of users.
    with without_hooks(model), evaluating(model):
        device = input_device(model)
        try:
            alone = [prefill(model, *pad_rows([row], 0, "left", device))[0][0, -1] for row in rows]
            cache = RowCache()
            for part, lengths in ((rows[:2], _TRIAL_LENGTHS[:2]), (rows[2:], _TRIAL_LENGTHS[2:])):
                prompts = [row[:length] for row, length in zip(part, lengths, strict=True)]
                cache.add_rows(prefill(model, *pad_rows(prompts, _PAD, "left", device))[1], lengths)
            for step in range(2):
                tokens = torch.tensor([row[len(row) - 2 + step] for row in rows], device=device)
                batch_logits = model(**cache.next_pass(tokens)).logits[:, -1]
                if step == 0:
                    cache.keep_rows([0, 2])
                    rows = [rows[0], rows[2]]
        except torch.OutOfMemoryError:
            raise
        except Exception:  # an unknown architecture can fail with any exception
            return False
    return all(
        same_logits(row.float(), expected.float(), expected.dtype)
        for row, expected in zip(batch_logits, (alone[0], alone[2]), strict=True)
    )
