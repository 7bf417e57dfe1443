"""The rows that target vectors are optimised on. A step runs only what the changed hidden states affect."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.locate_edit.affected_blocks import split_blocks
from easyedit_lifelong.methods.locate_edit.aligned_rows import BatchRow, align_rows
from easyedit_lifelong.methods.locate_edit.config import LocateEditHyperParams
from easyedit_lifelong.methods.locate_edit.early_head import EarlyHead
from easyedit_lifelong.methods.shared.divergence import KLDivergence
from easyedit_lifelong.models.attention import grouped_queries
from easyedit_lifelong.models.capture import recording_output
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.models.packing import computing_only, mlps_of, token_wise_modules
from easyedit_lifelong.models.partial_pass import (
    FrozenPrefix,
    fixed_output,
    head_at_positions,
    hidden_of,
    replacing_output,
    same_logits,
    standing_in,
    with_hidden,
)
from easyedit_lifelong.models.precision import at_least_float32
from easyedit_lifelong.models.reduced_products import ReducedProducts
from easyedit_lifelong.models.row_axis import with_row_axis
from easyedit_lifelong.models.runner import Runner

LOG = logging.getLogger(__name__)


class SuffixRows:
    """Runs partial passes over a group of rows, which are aligned at their lookup tokens.

    A full pass is run once. After that, a partial pass runs the blocks that the change affects, from the lookup tokens
    on, and skips padding in modules that compute each token by itself. The logits of the first partial pass are
    compared with those of the full pass. All passes are full if they differ, if the model can't run partial passes (its
    cache is of another kind), or if its blocks are not known. With ``products``, partial passes after the first
    one round the factors of the blocks' matrix products (:mod:`~easyedit_lifelong.models.reduced_products`).

    Args:
        runner: runs the model.
        batch_rows: the rows.
        layer: number of the block whose output is changed.
        hparams: name the modules of the model.
        projection: a projection of that block, whose output is changed instead of the block's; None: the block's.
        products: computes the products of the affected blocks in bfloat16; None: all passes are exact.

    Attributes:
        rows: the aligned rows.
        lookup_outputs: the unchanged output at the lookup tokens, of the block or of the projection, shape
            ``(rows, width)``.
    """

    def __init__(
        self,
        runner: Runner,
        batch_rows: Sequence[BatchRow],
        layer: int,
        hparams: LocateEditHyperParams,
        projection: nn.Module | None = None,
        products: ReducedProducts | None = None,
    ) -> None:
        self._runner = runner
        block = find_module(runner.model, hparams.layer_module_tmp.format(layer))[1]
        self._projection = projection
        self._changed = block if projection is None else projection
        self._early_head = EarlyHead(runner, hparams, layer)
        self.rows = align_rows(runner, batch_rows)
        self._head = None if runner.anatomy is None else runner.anatomy.head
        split = None if self._head is None else split_blocks(runner, block, projection)
        self._partial = split is not None
        self._constant_blocks, affected = ([], []) if split is None else split
        self._products = products if self._partial else None
        # The last block's attention reads all tokens, but its MLP is needed only where a token is predicted.
        self._last_mlps = self._without_projection(mlps_of(affected[-1]) if affected else [])
        token_wise = [module for block in affected for module in token_wise_modules(block)]
        self._token_wise = [module for module in self._without_projection(token_wise) if module not in self._last_mlps]
        self._constant_output, self._hidden, self._prefix, full_logits = self._full_pass_of_any_model()
        self.lookup_outputs = self._hidden[:, 0]
        self._initial_essence_log_probs: Tensor | None = None
        self._logits_to_match = full_logits if self._partial else None

    @property
    def uses_bfloat16(self) -> bool:
        """Whether passes round the factors of matrix products, so that losses are not exact."""
        return self._products is not None

    def log_probabilities(self, delta: Tensor, *, exact: bool = False) -> tuple[Tensor, Tensor]:
        """Return the log-probabilities and the divergence with changed hidden states; differentiable in ``delta``.

        The first call must be with ``delta`` = 0. It compares the partial pass with the full pass, and it stores the
        predictions of the essence rows, with which those of later calls are compared.

        Args:
            delta: the change of each request's hidden state, shape ``(requests of the batch, width)``.
            exact: whether to round nothing, whatever :attr:`uses_bfloat16`.

        Returns:
            The log-probabilities at every target token, shape ``(targets, vocabulary)``, and the KL divergence of the
            prediction of every essence row from its prediction in the first call, shape ``(essences,)``.
        """
        change = delta[self.rows.request]
        if self._logits_to_match is None:
            with contextlib.nullcontext() if exact or self._products is None else self._products.active():
                logits, early_logits = self._run(change)
        else:
            logits, early_logits = self._first_run(change)
        # A split, not two slices: the gradient of each slice would be as large as all logits.
        target_logits, essence_logits = logits.split([len(self.rows.targets), len(self.rows.essence_request)])
        if self._initial_essence_log_probs is None:
            # Not of the full pass, which rounds differently. In bfloat16, the divergence contains that rounding, too.
            self._initial_essence_log_probs = essence_logits.detach().log_softmax(dim=1)
        divergence: Any = KLDivergence.apply(essence_logits, self._initial_essence_log_probs)
        return (target_logits if early_logits is None else early_logits).log_softmax(dim=1), divergence

    def without_requests(self, done: Tensor) -> SuffixRows | None:
        """Return the rows without those of finished requests; None if no rows are left.

        Args:
            done: whether a request is finished, shape ``(requests of the batch,)``.
        """
        kept = ~done[self.rows.request]
        if kept.all():
            return self
        if not kept.any():
            return None
        selection = copy.copy(self)
        selection.rows, kept_essences = self.rows.select_rows(kept)
        selection.lookup_outputs, selection._hidden = self.lookup_outputs[kept], self._hidden[kept]
        if self._initial_essence_log_probs is not None:
            selection._initial_essence_log_probs = self._initial_essence_log_probs[kept_essences]
        if self._constant_output is not None:
            selection._constant_output = with_hidden(self._constant_output, hidden_of(self._constant_output)[kept])
        if self._prefix is not None:
            selection._prefix = self._prefix.select_rows(kept)
        return selection

    def _without_projection(self, modules: Sequence[nn.Module]) -> list[nn.Module]:
        """Return the modules that do not contain the changed projection, whose output is needed at every column."""
        return [module for module in modules if not any(part is self._projection for part in module.modules())]

    def _full_pass_of_any_model(self) -> tuple[Any, Tensor, FrozenPrefix | None, Tensor]:
        """Run the model without changes; see :meth:`_full_pass`. If it can't fill a cache, all passes will be full."""
        try:
            return self._full_pass()
        except (EditError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # an unknown architecture can fail with any exception
            if not self._partial:
                raise
            self._use_full_passes(f"fails ({type(error).__name__}: {error})")
            return self._full_pass()

    def _first_run(self, change: Tensor) -> tuple[Tensor, Tensor | None]:
        """Run a partial pass, and compare it with the full pass; see :meth:`_run`. If they differ, run a full pass."""
        full_logits, self._logits_to_match = self._logits_to_match, None
        assert full_logits is not None
        try:
            result = self._run(change)
            if same_logits(result[0].detach(), full_logits, self.lookup_outputs.dtype):
                return result
            self._use_full_passes("differs from a full pass")
        except (EditError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # as above
            self._use_full_passes(f"fails ({type(error).__name__}: {error})")
        return self._run(change)

    def _use_full_passes(self, problem: str) -> None:
        """Run the full model in every step."""
        self._partial, self._products = False, None
        LOG.info("a partial pass of %s %s; every step runs the full model", type(self._runner.model).__name__, problem)

    @torch.no_grad()
    def _full_pass(self) -> tuple[Any, Tensor, FrozenPrefix | None, Tensor]:
        """Run the model without changes.

        Returns:
            The output of the constant blocks (None if there are none) and the hidden states that are changed, both from
            the lookup column on; the cache of the columns before it (None if partial passes do not need it); and the
            logits of all predictions.
        """
        rows = self.rows
        columns = rows.lookup_column + rows.prediction_column
        cache = DynamicCache() if self._partial and rows.lookup_column else None
        constant_outputs: list[Any] = []
        changed_outputs: list[Any] = []
        with contextlib.ExitStack() as stack:
            last_constant = self._constant_blocks[-1] if self._constant_blocks else None
            stack.enter_context(recording_output(last_constant, constant_outputs.append))
            stack.enter_context(recording_output(self._changed, changed_outputs.append))
            if self._partial:
                assert self._head is not None
                stack.enter_context(head_at_positions(self._head, rows.prediction_row, columns))
                stack.enter_context(grouped_queries())
                below = [module for block in self._constant_blocks for module in token_wise_modules(block)]
                stack.enter_context(computing_only([*below, *self._token_wise], rows.mask.bool()))
                columns_after = rows.ids.shape[1] - rows.end_column
                predicted = F.pad(rows.prediction_mask(), (rows.lookup_column, columns_after))
                stack.enter_context(computing_only(self._last_mlps, predicted))
            logits = self._runner.call(rows.ids, rows.mask, rows.lengths, cache)
        logits = logits[0] if self._partial else logits[rows.prediction_row, columns]
        suffix = slice(rows.lookup_column, rows.end_column)
        constant = [with_hidden(output, hidden_of(output)[:, suffix]) for output in constant_outputs]
        hidden = with_row_axis(hidden_of(changed_outputs[0]), len(rows.ids))[:, suffix]
        prefix = FrozenPrefix(cache, rows.lookup_column) if cache is not None else None
        return constant[0] if constant else None, hidden, prefix, at_least_float32(logits)

    def _run(self, change: Tensor) -> tuple[Tensor, Tensor | None]:
        """Run the model with changed hidden states at the lookup tokens.

        Args:
            change: the change in each row, shape ``(rows, width)``.

        Returns:
            The logits of all predictions, and the logits of the target tokens from ``v_loss_layer``, or None if that is
            the last block.
        """
        hidden = self._hidden
        changed = torch.cat([(hidden[:, :1] + change.unsqueeze(1)).to(hidden.dtype), hidden[:, 1:]], dim=1)
        return self._run_partial(changed) if self._partial else self._run_full(changed)

    def _run_partial(self, changed: Tensor) -> tuple[Tensor, Tensor | None]:
        """Run the affected blocks, from the lookup column on; see :meth:`_run`.

        Args:
            changed: the hidden states from the lookup column on, with the change, shape ``(rows, columns, width)``.
        """
        rows = self.rows
        assert self._head is not None
        ids, mask = rows.ids[:, rows.lookup_column : rows.end_column], rows.mask[:, : rows.end_column]
        predicted = rows.prediction_mask()
        up_to_last_prediction = predicted.flip(1).cumsum(dim=1).flip(1) > 0
        with (
            fixed_output(self._constant_blocks, self._constant_output),
            self._changed_output(changed),
            head_at_positions(self._head, rows.prediction_row, rows.prediction_column),
            grouped_queries(),
            computing_only(self._last_mlps, predicted),
            computing_only(self._token_wise, up_to_last_prediction),
            self._early_head.recording(),
        ):
            logits = self._runner.call(ids, mask, rows.lengths, self._prefix)[0]
        return at_least_float32(logits), self._early_logits(rows.prediction_column)

    def _changed_output(self, changed: Tensor) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which the block or the projection returns changed hidden states, in a partial pass."""
        if self._projection is None:
            return replacing_output(self._changed, changed, 0)
        return standing_in(self._projection, changed)

    def _run_full(self, changed: Tensor) -> tuple[Tensor, Tensor | None]:
        """Run the full model; see :meth:`_run`. ``changed`` is as in :meth:`_run_partial`."""
        rows = self.rows
        columns = rows.lookup_column + rows.prediction_column
        # The output is recorded after it is replaced: both may be done by hooks on the same block.
        with replacing_output(self._changed, changed, rows.lookup_column), self._early_head.recording():
            logits = self._runner.call(rows.ids, rows.mask, rows.lengths)
        return at_least_float32(logits[rows.prediction_row, columns]), self._early_logits(columns)

    def _early_logits(self, prediction_columns: Tensor) -> Tensor | None:
        """Return the logits of the target tokens from the early head, if there is one.

        Args:
            prediction_columns: column of each prediction in the pass that was run, shape ``(targets + essences,)``.
        """
        count = len(self.rows.targets)
        return self._early_head.logits(self.rows.prediction_row[:count], prediction_columns[:count])
