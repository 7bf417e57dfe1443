"""Run only the part of a causal language model that a GRACE value can change, again and again.

A value replaces the edited layer's output from one token on. Everything before that is constant
while the value is trained: the blocks below the layer, and, for the tokens to the left, the keys and
values of every block. Both are computed once. A later pass is the model's own forward pass: the
lower blocks return what they returned before, and the tokens to the left are in a frozen cache. So masks,
rotary angles, norms and head are the model's own, whatever its family. The first such pass is checked
against the full pass; where they differ, or the model has no list of blocks, full passes are used instead.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from easyedit_lifelong.methods.grace.layer import GraceAdaptor
from easyedit_lifelong.methods.grace.training.value_pass import ValuePass
from easyedit_lifelong.models.anatomy import Anatomy
from easyedit_lifelong.models.encoding import IGNORED, EncodedPair, pad_rows
from easyedit_lifelong.models.linear import few_token_linears
from easyedit_lifelong.models.prompt_positions import whole_prompt_layers
from easyedit_lifelong.models.runner import Runner
from easyedit_lifelong.models.suffix import FrozenPrefix, hidden_of, with_hidden


class SuffixPass(ValuePass):
    """A pass over a few requests; see :class:`.ValuePass`.

    Args:
        runner: of the model, which is in evaluation mode.
        adaptor: on the edited layer.
        layer_path: the layer's path in the model.
        pairs: prompt and target of each row.
        pad: the padding token's id.
        anatomy: the model's parts, to run less than the full model again; None to run all.
        at: index of the token in each row's prompt at which the value is put; None for its last.
    """

    def __init__(
        self,
        runner: Runner,
        adaptor: GraceAdaptor,
        layer_path: str,
        pairs: Sequence[EncodedPair],
        pad: int,
        anatomy: Anatomy | None,
        at: Sequence[int] | None = None,
    ) -> None:
        device = runner.device
        ends = [len(pair.prompt) for pair in pairs] if at is None else [index + 1 for index in at]
        rows = [(pair.prompt[:end], pair.prompt[end:], pair.target) for pair, end in zip(pairs, ends, strict=True)]
        left, left_mask = pad_rows([before for before, _, _ in rows], pad, "left", device)
        # The last target token is only ever predicted, never read.
        right, right_mask = pad_rows([[*after, *target[:-1]] for _, after, target in rows], pad, "right", device)
        answers, answer_mask = pad_rows([target for _, _, target in rows], pad, "right", device)
        block, end = anatomy.block_of(layer_path) if anatomy else None, left.shape[1] - 1
        # Only replace_last leaves the tokens to the left of the value's unchanged.
        # And another editor's layers may have to see full prompts.
        full = bool(whole_prompt_layers(runner.model))
        self._start = end if block is not None and adaptor.replacement == "replace_last" and not full else 0
        blocks = list(anatomy.blocks) if anatomy and block is not None else []
        above = [*blocks[block:], anatomy.head] if anatomy and blocks else []
        super().__init__(adaptor, answers.masked_fill(answer_mask == 0, IGNORED), end - self._start, blocks[:block])
        self._runner, self._width = runner, right.shape[1] + 1
        self._above = [module for module in above if module is not None]
        self._ids, self._mask = torch.cat([left, right], dim=1), torch.cat([left_mask, right_mask], dim=1)
        self._prompt_lengths = torch.tensor([len(pair.prompt) for pair in pairs])
        # Where a row's first answer token is predicted, counted from the value's token.
        self._lags = torch.tensor([len(after) for _, after, _ in rows], device=device)
        # Without the model's configuration a cache keeps every token, also where attention is local;
        # masks see to the window.
        collected = DynamicCache() if self._start else None
        self._record(lambda: self._at_answers(self._ids, collected), end, self._start)
        self._prefix = FrozenPrefix(collected, self._start) if collected is not None else None

    @property
    def is_partial(self) -> bool:
        """Whether a pass runs less than the full model."""
        return super().is_partial or self._start > 0

    def select_rows(self, rows: Tensor) -> SuffixPass:
        """Return the pass over some of its rows."""
        some = copy.copy(self)
        for name in ("query", "output", "targets", "unedited", "_ids", "_mask", "_lags"):
            setattr(some, name, getattr(self, name)[rows])
        some._prompt_lengths = self._prompt_lengths[rows.cpu()]
        if self._boundary is not None:
            some._boundary = with_hidden(self._boundary, hidden_of(self._boundary)[rows])
        some._prefix = self._prefix.select_rows(rows) if self._prefix is not None else None
        return some

    def _forward(self) -> Tensor:
        return self._at_answers(self._ids[:, self._start :], self._prefix)

    def _at_answers(self, ids: Tensor, cache: Any) -> Tensor:
        """Return the logits of a pass that predict the answers, ``(rows, longest target, vocabulary)``."""
        logits = self._runner.call(ids, self._mask, self._prompt_lengths, cache, keep=self._width)
        logits, longest = logits[:, -self._width :], self.targets.shape[1]
        if self._width == longest and not self._lags.any():
            return logits
        columns = self._lags.unsqueeze(1) + torch.arange(longest, device=self._lags.device)
        rows = torch.arange(len(columns), device=columns.device).unsqueeze(1)
        return logits[rows, columns.clamp_max(self._width - 1)]

    @contextlib.contextmanager
    def _shortcuts(self) -> Iterator[None]:
        with super()._shortcuts(), few_token_linears(self._above):
            yield
