"""The rows that target vectors are optimised on, and what of them is run again at every step."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from easyedit_lifelong.methods.coachhook.config import CoachHookHyperParams
from easyedit_lifelong.methods.coachhook.placement import OwnedRow, place
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.models.runner import Runner
from easyedit_lifelong.models.suffix import (
    FrozenPrefix,
    head_at,
    hidden_of,
    recording_output,
    replacing_output,
    same_logits,
    standing_in,
    with_hidden,
)

LOG = logging.getLogger(__name__)


class SuffixRows:
    """A group of rows, lined up at the token at which their facts are looked up.

    What lies below the changed block or to the left of that token is computed once. The first pass is
    checked against a pass through the whole model; where they differ, or the model's parts aren't known,
    the whole model is run at every step.

    Args:
        runner: of the model.
        owned: the rows.
        layer: number of the block whose output is changed.
        hparams: names of the model's parts.

    Attributes:
        at: where the rows are.
        values: the block's own output at the look-up token, shape ``(rows, width)``.
        essence_before: log-probabilities at the end of each essence row's subject, without any change,
            shape ``(essences, vocabulary)``.
    """

    def __init__(self, runner: Runner, owned: Sequence[OwnedRow], layer: int, hparams: CoachHookHyperParams) -> None:
        self._runner = runner
        self._block = find_module(runner.model, hparams.layer_module_tmp.format(layer))[1]
        self._early = EarlyHead(runner, hparams, layer)
        self.at = place(runner, owned)
        anatomy = runner.anatomy
        blocks: list[nn.Module] = list(anatomy.blocks) if anatomy is not None else []
        self._head = anatomy.head if anatomy is not None else None
        self._partial = self._block in blocks and self._head is not None
        self._below = blocks[: blocks.index(self._block) + 1] if self._partial else []
        self._boundary, self._prefix, unchanged = self._record()
        self.values = hidden_of(self._boundary)[:, 0]
        self.essence_before = unchanged[len(self.at.targets) :].log_softmax(dim=1)
        if self._partial and not self._agrees(unchanged):
            LOG.info("%s can't be run in part; target vectors are optimised on the whole", type(runner.model).__name__)
            self._partial = False

    def log_probabilities(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the model says with changes in place, as log-probabilities.

        Args:
            delta: the changes, shape ``(requests of the batch, width)``.

        Returns:
            At every target token, ``(targets, vocabulary)``, and where every essence row's subject ends,
            ``(essences, vocabulary)``; differentiable in ``delta``.
        """
        logits, early = self._run(delta[self.at.owner])
        count = len(self.at.targets)
        answers = logits[:count] if early is None else early
        return answers.log_softmax(dim=1), logits[count:].log_softmax(dim=1)

    def without(self, done: Tensor) -> bool:
        """Forget the rows of requests that are done; return whether any are left.

        Args:
            done: shape ``(requests of the batch,)``.
        """
        kept = ~done[self.at.owner]
        if not kept.any():
            return False
        if not kept.all():
            self.at, essences = self.at.keep(kept)
            self.values, self.essence_before = self.values[kept], self.essence_before[essences]
            self._boundary = with_hidden(self._boundary, hidden_of(self._boundary)[kept])
            if self._prefix is not None:
                self._prefix.keep_rows(kept)
        return True

    @torch.no_grad()
    def _record(self) -> tuple[Any, FrozenPrefix | None, Tensor]:
        """Compute what stays the same: the block's output, the cache to the left, and the logits unchanged."""
        collected = DynamicCache() if self._partial and self.at.start else None
        kept: list[Any] = []

        def keep(output: Any) -> None:
            kept.append(with_hidden(output, hidden_of(output)[:, self.at.start : self.at.end]))

        with recording_output(self._block, keep):
            logits = self._runner.call(self.at.ids, self.at.mask, self.at.lengths, collected)
        prefix = FrozenPrefix(collected, self.at.start) if collected is not None else None
        return kept[0], prefix, _wide(logits[self.at.rows, self.at.start + self.at.columns])

    @torch.no_grad()
    def _agrees(self, unchanged: Tensor) -> bool:
        logits, _ = self._run(torch.zeros_like(self.values))
        return same_logits(logits, unchanged, self.values.dtype)

    def _run(self, change: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the logits where something is predicted; those of an earlier block's output, if so asked."""
        at = self.at
        hidden = hidden_of(self._boundary)
        changed = torch.cat([(hidden[:, :1] + change.unsqueeze(1)).to(hidden.dtype), hidden[:, 1:]], dim=1)
        start = at.start if self._partial else 0
        with contextlib.ExitStack() as stack:
            if self._partial:
                assert self._head is not None
                stack.enter_context(standing_in(self._below, with_hidden(self._boundary, changed)))
                stack.enter_context(head_at(self._head, at.rows, at.columns))
            else:
                stack.enter_context(replacing_output(self._block, changed, at.start))
            # Behind the change: the block that is listened to may be the one that is changed.
            stack.enter_context(self._early.listening())
            if self._partial:
                logits = self._runner.call(at.ids[:, start : at.end], at.mask[:, : at.end], at.lengths, self._prefix)[0]
            else:
                logits = self._runner.call(at.ids, at.mask, at.lengths)[at.rows, at.start + at.columns]
        count = len(at.targets)
        return _wide(logits), self._early.logits(at.rows[:count], at.start - start + at.columns[:count])


class EarlyHead:
    """Takes the likelihood from an earlier block's output, where ``v_loss_layer`` asks for it (MEMIT).

    Args:
        runner: of the model.
        hparams: names the block, the final norm and the head.
        layer: number of the block whose output is changed; the loss can't be taken below it.
    """

    def __init__(self, runner: Runner, hparams: CoachHookHyperParams, layer: int) -> None:
        self._block: nn.Module | None = None
        self._hidden: Tensor | None = None
        last = len(runner.anatomy.blocks) - 1 if runner.anatomy is not None else None
        number = hparams.v_loss_layer
        if number is None or (last is not None and max(number, layer) >= last):
            return
        self._block = find_module(runner.model, hparams.layer_module_tmp.format(max(number, layer)))[1]
        self._norm = find_module(runner.model, hparams.ln_f_module)[1]
        self._head = runner.model.get_output_embeddings()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Keep what the block returns in the pass inside."""

        def keep(output: Any) -> None:
            self._hidden = hidden_of(output)

        with recording_output(self._block, keep):
            yield

    def logits(self, rows: Tensor, columns: Tensor) -> Tensor | None:
        """Return the logits that follow from the block's output; None if the last block's are asked for."""
        if self._block is None or self._hidden is None:
            return None
        return _wide(self._head(self._norm(self._hidden[rows, columns])))


def _wide(logits: Tensor) -> Tensor:
    """Return logits in float32 or wider."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
