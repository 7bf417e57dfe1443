"""Run a language model on padded rows of tokens."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.models.anatomy import Anatomy, anatomy_of
from easyedit_lifelong.models.devices import input_device
from easyedit_lifelong.models.encoding import position_ids
from easyedit_lifelong.models.prompt_positions import PositionTracker, prompt_lengths
from easyedit_lifelong.models.wrappers import unwrap_model


class Runner:
    """Calls a model with the arguments that its forward pass accepts.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer; None if the padding token doesn't matter.
        own_spans: how many of the editors that span two layers belong to the caller, whose partial passes account for
            them.

    Attributes:
        pad: id of the padding token.
    """

    def __init__(self, model: Any, tokenizer: Any, own_spans: int = 0) -> None:
        model = unwrap_model(model)
        self.model, self.tokenizer = model, tokenizer
        self._anatomy, self._own_spans = anatomy_of(model), own_spans
        self.pad: int = getattr(tokenizer, "pad_token_id", None) or 0
        self._accepted = set(inspect.signature(model.forward).parameters)

    @property
    def anatomy(self) -> Anatomy | None:
        """The model's parts; None if the model must run full passes."""
        tracker = PositionTracker.of(self.model)
        return None if tracker is not None and tracker.spanning > self._own_spans else self._anatomy

    @property
    def device(self) -> torch.device:
        """The device on which the model expects token ids."""
        return input_device(self.model)

    def call(
        self,
        ids: Tensor,
        mask: Tensor,
        lengths: Sequence[int] | Tensor,
        cache: Any = None,
        *,
        keep: int | None = None,
        notes: dict[int, Any] | None = None,
    ) -> Tensor:
        """Return the model's logits for padded rows, ``(rows, tokens, vocabulary)``.

        Args:
            ids: token ids, shape ``(rows, tokens)``.
            mask: which columns hold tokens, cached columns first, shape ``(rows, cached + tokens)``.
            lengths: number of prompt tokens of each row, shape ``(rows,)``.
            cache: key-value cache of the columns before ``ids``.
            keep: compute logits only for this many last columns. Models that don't support it return all logits.
            notes: what edited layers store for later layers, to share between passes over the same rows; see
                :meth:`~easyedit_lifelong.models.prompt_positions.PositionTracker.using_lengths`.
        """
        extra: dict[str, Any] = {}
        if "position_ids" in self._accepted:
            extra["position_ids"] = position_ids(mask)[:, -ids.shape[1] :]
        if keep is not None and "logits_to_keep" in self._accepted:
            extra["logits_to_keep"] = keep
        if cache is not None:
            extra["past_key_values"] = cache
        with prompt_lengths(self.model, lengths, notes):
            return self.model(input_ids=ids, attention_mask=mask, use_cache=cache is not None, **extra).logits
