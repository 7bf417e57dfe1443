"""What GRACE's values are trained on: a request as passes through the model, by the kind of model it is."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import DataError, EditError
from easyedit_lifelong.methods.grace.layer import GraceAdaptor
from easyedit_lifelong.methods.grace.training.full_pass import whole_pass
from easyedit_lifelong.methods.grace.training.replay import Replay
from easyedit_lifelong.models.anatomy import anatomy_of
from easyedit_lifelong.models.encoding import EncodedPair
from easyedit_lifelong.models.kinds import Kind, kind_of
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.pairs import Encode, encoder_for
from easyedit_lifelong.models.positions import PositionTracker
from easyedit_lifelong.models.stacks import stack_of

LOG = logging.getLogger(__name__)


class Lesson(Protocol):
    """Logits at targets, as a function of the edited layer's values.

    Attributes:
        query: what the codebook is asked with, ``(rows, key_size)``.
        output: what the layer returns there, ``(rows, value_size)``.
        targets: what should be predicted, ``(rows, targets)``; ``IGNORED`` where nothing is.
        unedited: the logits there without an edit, ``(rows, targets, classes)``.
    """

    query: Tensor
    output: Tensor
    targets: Tensor
    unedited: Tensor

    def logits(self, values: Tensor) -> Tensor:
        """Return the logits with values ``(rows, value_size)`` in place: ``(rows, targets, classes)``."""

    def taking(self, rows: Tensor) -> Lesson:
        """Return the lesson of some of its rows."""


class _Partial(Lesson, Protocol):
    """A lesson that may run less than the whole model."""

    @property
    def is_partial(self) -> bool: ...

    def agrees(self) -> bool: ...


class Lessons:
    """Encodes the requests of one layer's edits, and lets values be tried on them.

    Args:
        model: the model.
        layer: the edited layer.
        path: its path in the model.
        warn: whether to say, once, that a target has more tokens than a layer in the last block can answer.

    Attributes:
        found_out: what the edits so far have shown of the model: whether it can be replayed in part (None: nothing
            yet), and up to which length.
    """

    def __init__(self, model: Any, layer: nn.Module, path: str, *, warn: bool = True) -> None:
        self.model, self.path = model, path
        self.kind = kind_of(model)
        self.found_out: tuple[bool | None, int] = (None, 0)
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
        self._tokenizer: Any = None
        self._encode: Encode | None = None

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
        if self._encode is None or self._tokenizer is not tokenizer:
            self._tokenizer, self._encode = tokenizer, encoder_for(self.model, tokenizer)
        try:
            pair = self._encode(request.prompt if text is None else text, request.target_new)
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
                request.where, len(pair.target), self.path,
            )  # fmt: skip
            self._warn = False  # once is enough
        return pair

    @property
    def go_together(self) -> bool:
        """Whether a lesson can be of several requests."""
        return self.kind is Kind.CAUSAL

    def of(
        self,
        adaptor: GraceAdaptor,
        pairs: Sequence[EncodedPair],
        copies: int,
        pad: int,
        at: Sequence[int] | None = None,
    ) -> Lesson:
        """Return the lesson of requests; as little of the model runs as gives the same logits.

        Args:
            adaptor: on the edited layer.
            pairs: their prompts and targets; of one, unless they :attr:`go_together`.
            copies: how many rows to make of each.
            pad: the padding token's id.
            at: see :class:`~easyedit_lifelong.methods.grace.training.replay.Replay`; with ``copies`` 1.
        """
        tracker = PositionTracker.of(self.model)
        if tracker is not None and tracker.spanning > adaptor.spanning:  # another editor's, which that would leave out
            return self._build(adaptor, pairs, copies, pad, False, at)
        shortcuts, checked_length = self.found_out
        length = max(pair.length for pair in pairs)
        if shortcuts is False or (shortcuts and length <= checked_length):
            return self._build(adaptor, pairs, copies, pad, bool(shortcuts), at)
        # Whether this architecture can be replayed in part shows at the first edit, and again when a
        # prompt is longer than any before: attention may treat distant tokens differently.
        try:
            lesson = self._build(adaptor, pairs, copies, pad, True, at)
            if not torch.isfinite(lesson.query).all():
                return lesson  # says nothing about the architecture; the edit is refused for it
            if not lesson.is_partial or lesson.agrees():
                self.found_out = True, length
                return lesson
        except (EditError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # an unknown architecture can object in any way
            LOG.debug("replaying %s in part failed: %s: %s", type(self.model).__name__, type(error).__name__, error)
        self.found_out = False, checked_length
        LOG.info("%s can't be replayed in part; values are trained on the whole model", type(self.model).__name__)
        return self._build(adaptor, pairs, copies, pad, False, at)

    def above(self) -> list[nn.Module]:
        """Return the modules that compute with the value: its own block and those above it."""
        if self._anatomy is None or self._block is None or self.kind is Kind.SEQ2SEQ:
            return [self.model]
        return list(self._anatomy.blocks)[self._block :]

    def _build(
        self,
        adaptor: GraceAdaptor,
        pairs: Sequence[EncodedPair],
        copies: int,
        pad: int,
        shortcuts: bool,
        at: Sequence[int] | None,
    ) -> _Partial:
        anatomy = self._anatomy if shortcuts else None
        if self.kind is Kind.CAUSAL:
            rows = [pair for pair in pairs for _ in range(copies)]
            return Replay(self.model, adaptor, self.path, rows, pad, anatomy, at)
        (pair,) = pairs
        return whole_pass(self.model, adaptor, self._path_in_stack, pair, copies, pad, anatomy)
