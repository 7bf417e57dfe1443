"""Passes over the requests of one layer's edits, by the kind of model: partial passes where they are exact."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import DataError, EditError
from easyedit_lifelong.methods.grace.layer import GraceAdaptor
from easyedit_lifelong.methods.grace.training.suffix_pass import SuffixPass
from easyedit_lifelong.methods.grace.training.value_pass import ValuePass, full_pass
from easyedit_lifelong.models.anatomy import Anatomy, anatomy_of
from easyedit_lifelong.models.encoding import EncodedPair
from easyedit_lifelong.models.kinds import Kind, kind_of
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.pairs import Encode, encoder_for
from easyedit_lifelong.models.prompt_positions import PositionTracker, stack_of
from easyedit_lifelong.models.runner import Runner

LOG = logging.getLogger(__name__)


class LayerPasses:
    """Encodes the requests of one layer's edits, and makes passes over them with values in place.

    Args:
        model: the model.
        layer: the edited layer.
        path: its path in the model.
        warn: whether to log, once, that a target has more tokens than a layer in the last block can answer.

    Attributes:
        replay_support: what the edits so far have shown of the model: whether partial passes agree with the full pass
            (None: not known yet), and up to which length.
    """

    def __init__(self, model: Any, layer: nn.Module, path: str, *, warn: bool = True) -> None:
        self.model, self.path = model, path
        self.kind = kind_of(model)
        self.replay_support: tuple[bool | None, int] = (None, 0)
        stack = stack_of(model, layer) if self.kind is Kind.SEQ2SEQ else model
        prefix = next((name for name, module in model.named_modules() if module is stack), "") + "."
        self._path_in_stack = path.removeprefix(prefix)
        self._anatomy = anatomy_of(stack)
        self._block = self._anatomy.block_of(self._path_in_stack) if self._anatomy else None
        self._warn = (
            warn
            and self.kind is Kind.CAUSAL
            and self._anatomy is not None
            and self._block == len(self._anatomy.blocks) - 1
        )
        self._encoder: tuple[Any, Encode] | None = None

    @functools.cached_property
    def _runner(self) -> Runner:
        return Runner(self.model, None)

    def encode(self, tokenizer: Any, request: EditRequest, replacement: str, text: str | None = None) -> EncodedPair:
        """Return a request's prompt and target as ids.

        Args:
            tokenizer: the model's.
            request: the request.
            replacement: see GRACE's hyperparameters.
            text: what to take instead of the prompt.

        Raises:
            DataError: one of them can't be used; the message names the record and the field.
        """
        if self._encoder is None or self._encoder[0] is not tokenizer:
            self._encoder = tokenizer, encoder_for(self.model, tokenizer)
        try:
            pair = self._encoder[1](request.prompt if text is None else text, request.target_new)
        except DataError as error:
            raise DataError(f"{request.where}, field 'target_new': {error}") from error
        limit = context_length(self.model)
        if limit is not None and pair.length > limit:
            raise DataError(
                f"{request.where}, field 'prompt': prompt and target have {pair.length} tokens, the "
                f"model's context is {limit}. Shorten the prompt or leave the record out."
            )
        if self._warn and len(pair.target) > 1 and replacement == "replace_last":
            LOG.warning(
                "%s: the target has %d tokens, but %s is in the last block: no later block carries its value to "
                "any token but the first. Name an earlier layer in inner_params.",
                request.where,
                len(pair.target),
                self.path,
            )
            self._warn = False  # once is enough
        return pair

    @property
    def batchable(self) -> bool:
        """Whether a pass can be of several requests."""
        return self.kind is Kind.CAUSAL

    def of(
        self,
        adaptor: GraceAdaptor,
        pairs: Sequence[EncodedPair],
        copies: int,
        pad: int,
        at: Sequence[int] | None = None,
    ) -> ValuePass:
        """Return the pass of requests; as little of the model runs as gives the same logits.

        Args:
            adaptor: on the edited layer.
            pairs: their prompts and targets; of one, unless they are :attr:`batchable`.
            copies: how many rows to make of each.
            pad: the padding token's id.
            at: see :class:`.SuffixPass`; with ``copies`` 1.
        """

        def build(anatomy: Anatomy | None) -> ValuePass:
            if self.kind is Kind.CAUSAL:
                rows = [pair for pair in pairs for _ in range(copies)]
                return SuffixPass(self._runner, adaptor, self.path, rows, pad, anatomy, at)
            (pair,) = pairs
            return full_pass(self.model, adaptor, self._path_in_stack, pair, copies, pad, anatomy)

        tracker = PositionTracker.of(self.model)
        if tracker is not None and tracker.spanning > adaptor.spanning:  # another editor's, which that would leave out
            return build(None)
        supported, checked_length = self.replay_support
        length = max(pair.length for pair in pairs)
        if supported is False or (supported and length <= checked_length):
            return build(self._anatomy if supported else None)
        # Whether this architecture allows partial passes shows at the first edit, and again when a
        # prompt is longer than any before: attention may treat distant tokens differently.
        try:
            partial = build(self._anatomy)
            if not torch.isfinite(partial.query).all():
                return partial  # shows nothing about the architecture; the edit is refused for it
            if not partial.is_partial or partial.agrees():
                self.replay_support = True, length
                return partial
        except (EditError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # an unknown architecture can object in any way
            LOG.debug("replaying %s in part failed: %s: %s", type(self.model).__name__, type(error).__name__, error)
        self.replay_support = False, checked_length
        LOG.info("%s can't be replayed in part; values are trained on the whole model", type(self.model).__name__)
        return build(None)

    def above(self) -> list[nn.Module]:
        """Return the modules that compute with the value: its own block and those above it."""
        if self._anatomy is None or self._block is None or self.kind is Kind.SEQ2SEQ:
            return [self.model]
        return list(self._anatomy.blocks)[self._block :]
