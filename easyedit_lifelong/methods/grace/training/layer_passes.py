"""Passes over requests with values at one layer: partial passes where these are exact, otherwise full passes."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.grace.adaptor import GraceAdaptor
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.training.replay_support import ReplaySupport
from easyedit_lifelong.methods.grace.training.suffix_pass import SuffixPass
from easyedit_lifelong.methods.grace.training.value_pass import ValuePass, full_pass
from easyedit_lifelong.methods.shared.encoded_requests import encode_request
from easyedit_lifelong.models.anatomy import Anatomy, anatomy_of
from easyedit_lifelong.models.encoding import EncodedPair
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.model_kinds import ModelKind, kind_of
from easyedit_lifelong.models.pair_encoders import Encode, encoder_for
from easyedit_lifelong.models.prompt_positions import PositionTracker
from easyedit_lifelong.models.runner import Runner
from easyedit_lifelong.models.stack_trackers import find_stack

LOG = logging.getLogger(__name__)


class LayerPasses:
    """Encodes requests, and builds the passes over them in which values replace the output of one layer.

    Args:
        model: the model.
        layer: the layer whose output is replaced.
        path: its path in the model.
        warn: whether to log a warning, once, if a value can change only the first of several target tokens.

    Attributes:
        kind: the kind of model.
        replay_support: what is known about partial passes of this model.
    """

    def __init__(self, model: Any, layer: nn.Module, path: str, *, warn: bool = True) -> None:
        self.model, self.path = model, path
        self.kind = kind_of(model)
        self.replay_support = ReplaySupport()
        stack = find_stack(model, layer) if self.kind is ModelKind.SEQ2SEQ else model
        prefix = next((name for name, module in model.named_modules() if module is stack), "") + "."
        self._path_in_stack = path.removeprefix(prefix)
        self._anatomy = anatomy_of(stack)
        self._block = self._anatomy.block_of(self._path_in_stack) if self._anatomy else None
        in_last_block = self._anatomy is not None and self._block == len(self._anatomy.blocks) - 1
        self._warn = warn and self.kind is ModelKind.CAUSAL and in_last_block
        self._encoder: tuple[Any, bool, Encode] | None = None

    @functools.cached_property
    def _runner(self) -> Runner:
        return Runner(self.model, None)

    def encode(
        self, tokenizer: Any, request: EditRequest, hparams: GraceHyperParams, text: str | None = None
    ) -> EncodedPair:
        """Return the token ids of a request's prompt and target.

        Args:
            tokenizer: the model's tokenizer.
            request: the request.
            hparams: ``replacement`` and ``eos`` are used.
            text: a text to encode in place of the prompt.

        Raises:
            DataError: prompt or target can't be used; the message names the record and the field.
        """
        if self._encoder is None or self._encoder[0] is not tokenizer or self._encoder[1] != hparams.eos:
            self._encoder = tokenizer, hparams.eos, encoder_for(self.model, tokenizer, eos=hparams.eos)
        pair = encode_request(self._encoder[2], request, context_length(self.model), text)
        if self._warn and len(pair.target) > 1 and hparams.replacement == "replace_last":
            LOG.warning(
                "%s: the target has %d tokens, but %s is in the last block, so its value can change only the first of "
                "them. Name an earlier layer in inner_params.",
                request.where,
                len(pair.target),
                self.path,
            )
            self._warn = False
        return pair

    @property
    def batchable(self) -> bool:
        """Whether one pass can run several requests."""
        return self.kind is ModelKind.CAUSAL

    def build(
        self,
        adaptor: GraceAdaptor,
        pairs: Sequence[EncodedPair],
        copies: int,
        pad: int,
        value_tokens: Sequence[int] | None = None,
        pass_class: type[SuffixPass] = SuffixPass,
    ) -> ValuePass:
        """Return the pass over requests. It runs as little of the model as gives the same logits.

        Args:
            adaptor: the adaptor on the layer.
            pairs: prompts and targets of the requests; a single one unless :attr:`batchable`.
            copies: number of rows per request.
            pad: the padding token's id.
            value_tokens: see :class:`.SuffixPass`; only with ``copies`` 1.
            pass_class: the class of the pass over requests of a causal language model.
        """
        build = functools.partial(self._build, adaptor, pairs, copies, pad, value_tokens, pass_class)
        tracker = PositionTracker.of(self.model)
        n_own_spans = int(adaptor.spanning)
        if tracker is not None and tracker.spanning > n_own_spans:
            # A partial pass would skip the earlier layer of another editor that spans two layers.
            return build(None)
        supported, checked_length = self.replay_support
        length = max(pair.length for pair in pairs)
        if supported is False:
            return build(None)
        if supported and length <= checked_length:
            return build(self._anatomy)
        # Check at the first edit whether this architecture supports partial passes, and again for every longer prompt,
        # since attention may treat distant tokens differently.
        try:
            partial = build(self._anatomy)
            if not torch.isfinite(partial.query).all():
                return partial  # says nothing about the architecture; the editor refuses the edit
            if not partial.is_partial or partial.agrees():
                self.replay_support = ReplaySupport(True, length)
                return partial
        except (EditError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # an unknown architecture can fail with any exception
            LOG.debug("a partial pass of %s failed: %s: %s", type(self.model).__name__, type(error).__name__, error)
        self.replay_support = ReplaySupport(False, checked_length)
        LOG.info("%s does not support partial passes; values are trained with full passes", type(self.model).__name__)
        return build(None)

    def _build(
        self,
        adaptor: GraceAdaptor,
        pairs: Sequence[EncodedPair],
        copies: int,
        pad: int,
        value_tokens: Sequence[int] | None,
        pass_class: type[SuffixPass],
        anatomy: Anatomy | None,
    ) -> ValuePass:
        """Return a pass over requests: partial as far as ``anatomy`` allows, full if it is None."""
        if self.kind is ModelKind.CAUSAL:
            rows = [pair for pair in pairs for _ in range(copies)]
            return pass_class(self._runner, adaptor, self.path, rows, pad, anatomy, value_tokens)
        (pair,) = pairs
        return full_pass(self.model, adaptor, self._path_in_stack, pair, copies, pad, anatomy)

    def modules_from_layer_on(self) -> list[nn.Module]:
        """Return the block of the layer and the blocks above it; the model itself if its blocks are not known."""
        if self._anatomy is None or self._block is None or self.kind is ModelKind.SEQ2SEQ:
            return [self.model]
        return list(self._anatomy.blocks)[self._block :]
