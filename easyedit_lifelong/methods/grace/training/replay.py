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
        at: index of the token in each row's prompt at which the value is put; None for its last.

    Attributes:
        query: the layer's input at that token, ``(rows, key_size)``.
        output: the layer's output there, ``(rows, value_size)``.
        targets: target token ids, ``(rows, longest target)``; ``IGNORED`` behind the shorter ones.
        unedited: the logits there without an edit, ``(rows, longest target, vocabulary)``.
    """

    def __init__(
        self,
        model: Any,
        adaptor: GraceAdaptor,
        layer_path: str,
        pairs: Sequence[EncodedPair],
        pad: int,
        anatomy: Anatomy | None,
        at: Sequence[int] | None = None,
    ) -> None:
        self.model, self.adaptor = model, adaptor
        device = device_of(model.get_input_embeddings())
        ends = [len(pair.prompt) for pair in pairs] if at is None else [index + 1 for index in at]
        rows = [(pair.prompt[:end], pair.prompt[end:], pair.target) for pair, end in zip(pairs, ends, strict=True)]
        left, left_mask = pad_rows([before for before, _, _ in rows], pad, "left", device)
        # The last target token is only ever predicted, never read.
        right, right_mask = pad_rows([[*behind, *target[:-1]] for _, behind, target in rows], pad, "right", device)
        answers, answer_mask = pad_rows([target for _, _, target in rows], pad, "right", device)
        self.targets = answers.masked_fill(answer_mask == 0, IGNORED)
        self._ids = torch.cat([left, right], dim=1)
        self._mask = torch.cat([left_mask, right_mask], dim=1)
        self._prompt_lengths = [len(pair.prompt) for pair in pairs]
        self._end = left.shape[1] - 1
        # Where a row's first answer token is predicted, in tokens behind the value's.
        self._lags = torch.tensor([len(behind) for _, behind, _ in rows], device=device)
        self._accepted = accepted_arguments(model)
        block = anatomy.block_of(layer_path) if anatomy else None
        # Only replace_last leaves the tokens to the left of the value's alone.
        # And another editor's layers may have to see whole prompts.
        tracker = PositionTracker.of(model)
        whole = tracker is not None and tracker.whole_prompts > 0
        self._start = self._end if block is not None and adaptor.replacement == "replace_last" and not whole else 0
        self._blocks: list[nn.Module] = list(anatomy.blocks)[:block] if anatomy and block else []
        self._replayed = [*list(anatomy.blocks)[block:], anatomy.head] if anatomy and block is not None else []
        self._boundary: Any = None
        self._prefix: FrozenPrefix | None = None
        self.query, self.output, self.unedited = self._record()

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
        for name in ("query", "output", "targets", "unedited", "_ids", "_mask", "_lags"):
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
        return same_logits(replayed[real], self.unedited[real], replayed.dtype)

    def _record(self) -> tuple[Tensor, Tensor, Tensor]:
        """Compute what is constant in one pass, and the layer's query and output on the way."""
        trial = Trial(None, self._end)
        # Without the model's configuration a cache keeps every token, also where attention is local;
        # masks see to the window.
        collected = DynamicCache() if self._start else None
        with torch.no_grad(), self.adaptor.trying(trial), self._recording_boundary():
            unedited = self._at_answers(self._ids, collected)
        if collected is not None:
            self._prefix = FrozenPrefix(collected, self._start)
        assert trial.query is not None and trial.output is not None
        return trial.query, trial.output, unedited

    def _forward(self) -> Tensor:
        return self._at_answers(self._ids[:, self._start :], self._prefix)

    def _at_answers(self, ids: Tensor, cache: Any) -> Tensor:
        """Return the logits of a pass that predict the answers, ``(rows, longest target, vocabulary)``."""
        width = self._ids.shape[1] - self._end
        logits = logits_of(self.model, self._accepted, ids, self._mask, self._prompt_lengths, cache, keep=width)
        logits, longest = logits[:, -width:], self.targets.shape[1]
        if width == longest and not self._lags.any():
            return logits
        columns = self._lags.unsqueeze(1) + torch.arange(longest, device=self._lags.device)
        rows = torch.arange(len(columns), device=columns.device).unsqueeze(1)
        return logits[rows, columns.clamp_max(width - 1)]

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
