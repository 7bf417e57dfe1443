"""The rows that target vectors are optimised on; at every step, only what the vectors change is run again."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache

from easyedit_lifelong.methods.locate_edit.config import LocateEditHyperParams
from easyedit_lifelong.methods.locate_edit.placement import OwnedRow, place
from easyedit_lifelong.methods.shared.divergence import Drift
from easyedit_lifelong.models.attention import grouped_queries
from easyedit_lifelong.models.capture import recording_output
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.models.packing import computing_only, mlps_of, token_wise
from easyedit_lifelong.models.prompt_positions import whole_prompt_layers
from easyedit_lifelong.models.runner import Runner
from easyedit_lifelong.models.suffix import (
    FrozenPrefix,
    head_at,
    hidden_of,
    replacing_output,
    same_logits,
    standing_in,
    with_hidden,
)

LOG = logging.getLogger(__name__)


class SuffixRows:
    """A group of rows, aligned at the token at which their facts are looked up.

    What lies below the changed block or to the left of that token is computed once, and modules that compute every
    token by itself compute no padding. The first partial pass is compared with a pass through the whole model; if
    they differ, or if the model's parts are unknown, the whole model is run at every step.

    Args:
        runner: of the model.
        owned: the rows.
        layer: number of the block whose output is changed.
        hparams: names of the model's parts.

    Attributes:
        at: where the rows are.
        values: the block's own output at the look-up token, shape ``(rows, width)``.
    """

    def __init__(self, runner: Runner, owned: Sequence[OwnedRow], layer: int, hparams: LocateEditHyperParams) -> None:
        self._runner = runner
        self._block = find_module(runner.model, hparams.layer_module_tmp.format(layer))[1]
        self._early = EarlyHead(runner, hparams, layer)
        self.at = place(runner, owned)
        anatomy = runner.anatomy
        blocks: list[nn.Module] = list(anatomy.blocks) if anatomy is not None else []
        self._head = anatomy.head if anatomy is not None else None
        self._partial = self._block in blocks and self._head is not None
        self._below = blocks[: blocks.index(self._block) + 1] if self._partial else []
        above = blocks[len(self._below) :] if self._partial else []
        inside = {module for block in above for module in block.modules()}
        if not inside.isdisjoint(whole_prompt_layers(runner.model)):
            self._partial, self._below, above = False, [], []
        # The last block's attention needs all tokens, its MLP only those at which something is predicted.
        self._last_mlps = mlps_of(above[-1]) if above else []
        self._parts = [part for block in above for part in token_wise(block) if part not in self._last_mlps]
        self._boundary, self._prefix, unchanged = self._record()
        self.values = hidden_of(self._boundary)[:, 0]
        self._essences_before: Tensor | None = None
        self._unchecked = unchanged if self._partial else None

    def log_probabilities(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Return the model's log-probabilities with changes in place.

        Args:
            delta: the changes, shape ``(requests of the batch, width)``; 0 at first, which is then checked.

        Returns:
            Log-probabilities at every target token, ``(targets, vocabulary)``, and the divergence of the prediction
            at the end of every essence row's subject since the first pass, ``(essences,)``; differentiable in
            ``delta``.
        """
        logits, early = self._run(delta[self.at.owner])
        if self._unchecked is not None:
            self._partial = self._agrees(logits.detach(), self._unchecked)
            self._unchecked = None
            if not self._partial:
                name = type(self._runner.model).__name__
                LOG.info("%s cannot be run in part; target vectors are optimised on the whole model", name)
                logits, early = self._run(delta[self.at.owner])
        # A split, not two slices: the gradient of each slice would be as large as all logits.
        answers, essences = logits.split([len(self.at.targets), len(self.at.essence_owner)])
        if self._essences_before is None:  # from this very pass: another one may round differently
            self._essences_before = essences.detach().log_softmax(dim=1)
        drift: Any = Drift.apply(essences, self._essences_before)
        return (answers if early is None else early).log_softmax(dim=1), drift

    def without(self, done: Tensor) -> bool:
        """Drop the rows of requests that are done; return whether any are left.

        Args:
            done: shape ``(requests of the batch,)``.
        """
        kept = ~done[self.at.owner]
        if not kept.any():
            return False
        if not kept.all():
            self.at, essences = self.at.keep(kept)
            self.values = self.values[kept]
            if self._essences_before is not None:
                self._essences_before = self._essences_before[essences]
            self._boundary = with_hidden(self._boundary, hidden_of(self._boundary)[kept])
            if self._prefix is not None:
                self._prefix.keep_rows(kept)
        return True

    @torch.no_grad()
    def _record(self) -> tuple[Any, FrozenPrefix | None, Tensor]:
        """Return what no change affects: the block's output, the cache to its left, and the unchanged logits."""
        collected = DynamicCache() if self._partial and self.at.start else None
        kept: list[Any] = []

        def keep(output: Any) -> None:
            kept.append(with_hidden(output, hidden_of(output)[:, self.at.start : self.at.end]))

        at, columns = self.at, self.at.start + self.at.columns
        rest = at.ids.shape[1] - at.end
        with contextlib.ExitStack() as stack:
            stack.enter_context(recording_output(self._block, keep))
            if self._partial:
                assert self._head is not None
                stack.enter_context(head_at(self._head, at.rows, columns))
                stack.enter_context(grouped_queries())
                below = [part for block in self._below for part in token_wise(block)]
                stack.enter_context(computing_only([*below, *self._parts], at.mask.bool()))
                stack.enter_context(computing_only(self._last_mlps, F.pad(at.predicted(), (at.start, rest))))
            logits = self._runner.call(at.ids, at.mask, at.lengths, collected)
        prefix = FrozenPrefix(collected, at.start) if collected is not None else None
        return kept[0], prefix, _at_least_float32(logits[0] if self._partial else logits[at.rows, columns])

    def _agrees(self, logits: Tensor, unchanged: Tensor) -> bool:
        return same_logits(logits, unchanged, self.values.dtype)

    def _run(self, change: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the logits where something is predicted, and those of ``v_loss_layer`` if it is not the last."""
        at = self.at
        hidden = hidden_of(self._boundary)
        changed = torch.cat([(hidden[:, :1] + change.unsqueeze(1)).to(hidden.dtype), hidden[:, 1:]], dim=1)
        start = at.start if self._partial else 0
        with contextlib.ExitStack() as stack:
            if self._partial:
                assert self._head is not None
                stack.enter_context(standing_in(self._below, with_hidden(self._boundary, changed)))
                stack.enter_context(head_at(self._head, at.rows, at.columns))
                stack.enter_context(grouped_queries())
                predicted = at.predicted()
                stack.enter_context(computing_only(self._last_mlps, predicted))
                stack.enter_context(computing_only(self._parts, predicted.flip(1).cumsum(dim=1).flip(1) > 0))
            else:
                stack.enter_context(replacing_output(self._block, changed, at.start))
            # After the change: the block that is recorded may be the one that is changed.
            stack.enter_context(self._early.recording())
            if self._partial:
                logits = self._runner.call(at.ids[:, start : at.end], at.mask[:, : at.end], at.lengths, self._prefix)[0]
            else:
                logits = self._runner.call(at.ids, at.mask, at.lengths)[at.rows, at.start + at.columns]
        count = len(at.targets)
        return _at_least_float32(logits), self._early.logits(at.rows[:count], at.start - start + at.columns[:count])


class EarlyHead:
    """Computes the likelihood from an earlier block's output, if ``v_loss_layer`` names one (MEMIT).

    Args:
        runner: of the model.
        hparams: names the block, the final norm and the head.
        layer: number of the block whose output is changed; the loss cannot be computed below it.
    """

    def __init__(self, runner: Runner, hparams: LocateEditHyperParams, layer: int) -> None:
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
    def recording(self) -> Iterator[None]:
        """Keep what the block returns in the pass inside."""

        def keep(output: Any) -> None:
            self._hidden = hidden_of(output)

        with recording_output(self._block, keep):
            yield

    def logits(self, rows: Tensor, columns: Tensor) -> Tensor | None:
        """Return the logits that follow from the block's output; None if it is the last block."""
        if self._block is None or self._hidden is None:
            return None
        return _at_least_float32(self._head(self._norm(self._hidden[rows, columns])))


def _at_least_float32(logits: Tensor) -> Tensor:
    """Return logits in float32 or wider."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
