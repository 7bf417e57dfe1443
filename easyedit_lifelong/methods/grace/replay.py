"""Run only the part of a model that a GRACE value can change, again and again.

A value replaces the edited layer's output from one token on. Everything before that is constant
while the value is trained: the blocks below the layer, and, for the tokens to the left, the keys and
values of every block. Both are computed once. A replay is the model's own forward pass with the
lower blocks standing in for themselves (they return what they returned before) and the tokens to the
left in a frozen cache, so masks, rotary angles, norms and head are the model's own, whatever its
family. The first replay is checked against the full pass; where they differ, or the model has no
list of blocks, the full pass is used instead.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from easyedit_lifelong.methods.grace.layer import GraceAdaptor, Trial
from easyedit_lifelong.models.anatomy import Anatomy
from easyedit_lifelong.models.devices import device_of
from easyedit_lifelong.models.encoding import IGNORED, EncodedPair, pad_rows
from easyedit_lifelong.models.linear import few_token_linears
from easyedit_lifelong.models.positions import PositionTracker
from easyedit_lifelong.models.runner import accepted_arguments, logits_of
from easyedit_lifelong.models.suffix import (
    FrozenPrefix,
    hidden_of,
    recording_output,
    same_logits,
    standing_in,
    with_hidden,
)


class Replay:
    """Logits at the target tokens of a few requests, as a function of the layer's values.

    Args:
        model: the model, in evaluation mode.
        adaptor: on the edited layer.
        layer_path: the layer's path in the model.
        pairs: prompt and target of each row.
        pad: the padding token's id.
        anatomy: the model's parts, to replay less than the whole of it; None to replay all.

    Attributes:
        query: the layer's input at each prompt's last token, ``(rows, key_size)``.
        output: the layer's output there, ``(rows, value_size)``.
        targets: target token ids, ``(rows, longest target)``; ``IGNORED`` behind the shorter ones.
    """

    def __init__(
        self,
        model: Any,
        adaptor: GraceAdaptor,
        layer_path: str,
        pairs: Sequence[EncodedPair],
        pad: int,
        anatomy: Anatomy | None,
    ) -> None:
        self.model, self.adaptor = model, adaptor
        device = device_of(model.get_input_embeddings())
        prompts, prompt_mask = pad_rows([pair.prompt for pair in pairs], pad, "left", device)
        # The last target token is only ever predicted, never read.
        answers, answer_mask = pad_rows([pair.target for pair in pairs], pad, "right", device)
        self.targets = answers.masked_fill(answer_mask == 0, IGNORED)
        self._ids = torch.cat([prompts, answers[:, :-1]], dim=1)
        self._mask = torch.cat([prompt_mask, answer_mask[:, :-1]], dim=1)
        self._prompt_lengths = [len(pair.prompt) for pair in pairs]
        self._end = prompts.shape[1] - 1
        self._accepted = accepted_arguments(model)
        block = anatomy.block_of(layer_path) if anatomy else None
        # Only replace_last leaves the tokens to the left of the last prompt token alone.
        # And another editor's layers may have to see whole prompts.
        tracker = PositionTracker.of(model)
        whole = tracker is not None and tracker.whole_prompts > 0
        self._start = self._end if block is not None and adaptor.replacement == "replace_last" and not whole else 0
        self._blocks: list[nn.Module] = list(anatomy.blocks)[:block] if anatomy and block else []
        self._replayed = [*list(anatomy.blocks)[block:], anatomy.head] if anatomy and block is not None else []
        self._boundary: Any = None
        self._prefix: FrozenPrefix | None = None
        self.query, self.output, self._unedited = self._record()

    @property
    def is_partial(self) -> bool:
        """Whether a replay runs less than the whole model."""
        return bool(self._blocks) or self._start > 0

    def logits(self, values: Tensor) -> Tensor:
        """Return the logits that predict the target tokens, with these values in place.

        Args:
            values: shape ``(rows, value_size)``.

        Returns:
            Shape ``(rows, longest target, vocabulary)``; differentiable in the values.
        """
        with self.adaptor.trying(Trial(values, self._end - self._start)), self._standing_in(), self._fast():
            return self._forward()

    def taking(self, rows: Tensor) -> Replay:
        """Return the replay of some of its rows."""
        some = copy.copy(self)
        for name in ("query", "output", "targets", "_unedited", "_ids", "_mask"):
            setattr(some, name, getattr(self, name)[rows])
        some._prompt_lengths = [self._prompt_lengths[int(row)] for row in rows]
        if self._boundary is not None:
            some._boundary = with_hidden(self._boundary, hidden_of(self._boundary)[rows])
        some._prefix = self._prefix.taking(rows) if self._prefix is not None else None
        return some

    def agrees(self) -> bool:
        """Whether a replay with the layer's own output in place equals the full pass."""
        with (
            torch.no_grad(),
            self._standing_in(),
            self._fast(),
            self.adaptor.trying(Trial(None, self._end - self._start)),
        ):
            replayed = self._forward()
        real = self.targets != IGNORED
        return same_logits(replayed[real], self._unedited[real], replayed.dtype)

    def _record(self) -> tuple[Tensor, Tensor, Tensor]:
        """Compute what is constant in one pass, and the layer's query and output on the way."""
        trial = Trial(None, self._end)
        # Without the model's configuration a cache keeps every token, also where attention is local;
        # masks see to the window.
        collected = DynamicCache() if self._start else None
        with torch.no_grad(), self.adaptor.trying(trial), self._recording_boundary():
            width = self.targets.shape[1]
            unedited = self._call(self._ids, self._mask, collected, keep=width)[:, -width:]
        if collected is not None:
            self._prefix = FrozenPrefix(collected, self._start)
        assert trial.query is not None and trial.output is not None
        return trial.query, trial.output, unedited

    def _forward(self) -> Tensor:
        width = self.targets.shape[1]
        return self._call(self._ids[:, self._start :], self._mask, self._prefix, keep=width)[:, -width:]

    def _call(self, ids: Tensor, mask: Tensor, cache: Any, keep: int) -> Tensor:
        return logits_of(self.model, self._accepted, ids, mask, self._prompt_lengths, cache, keep=keep)

    def _fast(self) -> contextlib.AbstractContextManager[None]:
        return few_token_linears(module for module in self._replayed if module is not None)

    def _recording_boundary(self) -> contextlib.AbstractContextManager[None]:
        """Keep what the block below the edited one returns in the pass inside."""

        def keep(output: Any) -> None:
            self._boundary = with_hidden(output, hidden_of(output)[:, self._start :])

        return recording_output(self._blocks[-1] if self._blocks else None, keep)

    def _standing_in(self) -> contextlib.AbstractContextManager[None]:
        """Let the lower blocks return what the last of them returned, without computing."""
        return standing_in(self._blocks, self._boundary)
