"""Run a language model on padded rows of tokens, whatever its forward pass takes."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.models.anatomy import Anatomy, anatomy_of
from easyedit_lifelong.models.devices import device_of
from easyedit_lifelong.models.encoding import position_ids
from easyedit_lifelong.models.prompt_positions import PositionTracker, prompt_lengths
from easyedit_lifelong.models.wrappers import bare_model


class Runner:
    """A model, its parts, and how to call it.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer; None if the model's hooks alone are looked at.

    Attributes:
        pad: id of the padding token.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        model = bare_model(model)
        self.model, self.tokenizer = model, tokenizer
        self._anatomy = anatomy_of(model)
        self.pad: int = getattr(tokenizer, "pad_token_id", None) or 0
        self._accepted = set(inspect.signature(model.forward).parameters)

    @property
    def anatomy(self) -> Anatomy | None:
        """The model's parts; None if it can only be run as a whole."""
        tracker = PositionTracker.of(self.model)
        return None if tracker is not None and tracker.spanning else self._anatomy

    @property
    def device(self) -> torch.device:
        """Where the model takes its tokens."""
        return device_of(self.model.get_input_embeddings())

    def call(
        self, ids: Tensor, mask: Tensor, lengths: Sequence[int] | Tensor, cache: Any = None, *, keep: int | None = None
    ) -> Tensor:
        """Return the model's logits for padded rows, ``(rows, tokens, vocabulary)``.

        Args:
            ids: token ids, shape ``(rows, tokens)``.
            mask: which columns hold tokens, those in the cache first, shape ``(rows, cached + tokens)``.
            lengths: how many of each row's tokens are its prompt, shape ``(rows,)``.
            cache: of the columns to the left of ``ids``.
            keep: ask for the last so many columns' logits only; a model that can't leave the others out returns all.
        """
        extra: dict[str, Any] = {}
        if "position_ids" in self._accepted:
            extra["position_ids"] = position_ids(mask)[:, -ids.shape[1] :]
        if keep is not None and "logits_to_keep" in self._accepted:
            extra["logits_to_keep"] = keep
        if cache is not None:
            extra["past_key_values"] = cache
        # Editors on the model have to know where the prompts end.
        with prompt_lengths(self.model, lengths):
            return self.model(input_ids=ids, attention_mask=mask, use_cache=cache is not None, **extra).logits
