"""Run a model with restored states: many restorations in one pass, and only what they change.

A restoration at one token of one block changes nothing before that token and below that block. So a pass reads the
earlier tokens from the cache of the corrupted runs, and skips the blocks below the first restored one. Restorations at
different layers share a pass: the rows of each join it at the block from which on they differ from the corrupted runs,
with the input that this block had there. The model computes masks, rotary angles and norms itself, so that this works
for every family.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.locate.baseline_runs import BaselineRuns
from easyedit_lifelong.locate.restorations import Restoration
from easyedit_lifelong.locate.sites import Sites
from easyedit_lifelong.models.attention import grouped_queries
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.models.packing import computing_only
from easyedit_lifelong.models.partial_pass import (
    RepeatedPrefix,
    adding_rows,
    fixed_output,
    replacing_positions,
    same_logits,
    with_hidden,
)
from easyedit_lifelong.models.prompt_positions import full_prompt_layers
from easyedit_lifelong.models.runner import Runner

LOG = logging.getLogger(__name__)

_TOKENS_ON_CPU, _TOKENS_ON_GPU = 2048, 16384
"""Tokens in one pass. More do not make a pass faster, and need more memory."""

_ROWS_IN_CACHE = 16
"""Rows of logits whose probabilities a CPU computes at once: as many as its caches hold, which halves the time."""


class RestoredPasses:
    """Computes the probability of an answer with restored states.

    Args:
        runner: runs the model.
        sites: the model's sites.
        tokens_per_pass: largest number of tokens in one pass; None for a default that suits the device.
    """

    def __init__(self, runner: Runner, sites: Sites, tokens_per_pass: int | None = None) -> None:
        self._runner, self._sites = runner, sites
        default = _TOKENS_ON_CPU if runner.device.type == "cpu" else _TOKENS_ON_GPU
        self._tokens_per_pass = default if tokens_per_pass is None else tokens_per_pass
        # Layers of editors may need complete prompts.
        self._reuses_tokens = not full_prompt_layers(runner.model)
        self._checked = False

    @torch.no_grad()
    def probabilities(self, runs: BaselineRuns, restorations: Sequence[Restoration], answer: int) -> Tensor:
        """Return the probability of an answer token for each restoration, averaged over the corrupted runs.

        Args:
            runs: the runs of the fact.
            restorations: what is restored.
            answer: id of the answer token.

        Returns:
            Shape ``(restorations,)``, in float64 on the CPU.

        Raises:
            ModelError: passes over a part of the model do not give the logits of a full pass.
        """
        if not self._checked:
            self._check(runs)
        result = torch.zeros(len(restorations), dtype=torch.float64)
        for indices in self._batches(runs, restorations):
            logits = self._run(runs, [restorations[index] for index in indices])
            each = answer_probabilities(logits, answer).view(len(indices), runs.samples)
            result[indices] = each.mean(dim=1).double().cpu()
        return result

    def _check(self, runs: BaselineRuns) -> None:
        """Compare partial passes without restored states with the corrupted runs; use no cache if it isn't exact.

        Raises:
            ModelError: the logits differ without a cache, too.
        """
        nothing = [Restoration(runs.fact.subject[0], first) for first in (0, len(self._sites.blocks) // 2)]
        expected = runs.logits[1:].repeat(2, 1)
        dtype = self._runner.model.dtype
        for reuses_tokens in (True, False) if self._reuses_tokens else (False,):
            self._reuses_tokens = reuses_tokens
            if same_logits(self._run(runs, nothing), expected, dtype):
                self._checked = True
                return
            LOG.info("the cache of the corrupted runs does not give their logits; it isn't used")
        raise ModelError(
            f"{model_label(self._runner.model)}: can't be traced, since its blocks alone do not give the logits of the "
            "model"
        )

    def _batches(self, runs: BaselineRuns, restorations: Sequence[Restoration]) -> Iterator[list[int]]:
        """Yield indices of restorations that run in one pass, each sorted by the block at which they begin."""
        order = sorted(range(len(restorations)), key=lambda i: (restorations[i].token, restorations[i].first))
        mixes_tokens = self._runner.device.type != "cpu"  # costs computations, but saves passes
        batch: list[int] = []
        for index in order:
            if batch:
                first_token = restorations[batch[0]].token
                tokens = (len(batch) + 1) * runs.samples * (runs.n_tokens - first_token)
                same_token = restorations[index].token == first_token
                if tokens > self._tokens_per_pass or not (same_token or mixes_tokens):
                    yield sorted(batch, key=lambda i: restorations[i].first)
                    batch = []
            batch.append(index)
        if batch:
            yield sorted(batch, key=lambda i: restorations[i].first)

    def _run(self, runs: BaselineRuns, restorations: Sequence[Restoration]) -> Tensor:
        """Run the model on some restorations, sorted by their first block.

        Returns:
            Logits at the last token, shape ``(restorations * samples, vocabulary)``.
        """
        start = min(restoration.token for restoration in restorations) if self._reuses_tokens else 0
        samples, blocks = runs.samples, self._sites.blocks
        n_rows = len(restorations) * samples
        ids = torch.tensor([runs.fact.prompt] * n_rows, device=self._runner.device)
        with contextlib.ExitStack() as stack:
            no_rows = with_hidden(runs.block_output, runs.inputs[0][:0, start:])
            stack.enter_context(fixed_output(blocks[: restorations[0].first], no_rows))
            stack.enter_context(self._skipping(n_rows, ids.shape[1] - start))
            for context in self._joining(runs, restorations, start):
                stack.enter_context(context)
            for context in self._replacing(runs, restorations, start):
                stack.enter_context(context)
            stack.enter_context(grouped_queries())
            cache = RepeatedPrefix(runs.cache, start) if start else None
            lengths = [ids.shape[1]] * n_rows
            return self._runner.call(ids[:, start:], torch.ones_like(ids), lengths, cache, keep=1)[:, -1]

    def _skipping(self, n_rows: int, n_columns: int) -> contextlib.AbstractContextManager[None]:
        """Return a context in which the last block computes only what the last token reads, where that is possible."""
        wanted = torch.zeros(n_rows, n_columns, dtype=torch.bool)
        wanted[:, -1] = True
        return computing_only(self._sites.read_by_last_token(), wanted)

    def _joining(
        self, runs: BaselineRuns, restorations: Sequence[Restoration], start: int
    ) -> Iterator[contextlib.AbstractContextManager[None]]:
        """Yield contexts in which rows join the pass: with the block's corrupted input, restored where it is to be."""
        n_all, joined = len(restorations) * runs.samples, 0
        for first in range(restorations[0].first, len(self._sites.blocks)):
            joining = [restoration for restoration in restorations if restoration.first == first]
            hidden = runs.inputs[first][1:, start:].repeat(len(joining), 1, 1)
            for index, restoration in enumerate(joining):
                if restoration.restore_input:
                    rows = slice(index * runs.samples, (index + 1) * runs.samples)
                    hidden[rows, restoration.token - start] = runs.inputs[first][0, restoration.token]
            yield adding_rows(self._sites.blocks[first], hidden, joined, n_all)
            joined += len(hidden)

    def _replacing(
        self, runs: BaselineRuns, restorations: Sequence[Restoration], start: int
    ) -> Iterator[contextlib.AbstractContextManager[None]]:
        """Yield contexts in which the outputs of modules have their clean or corrupted values at the tokens."""
        samples = torch.arange(runs.samples)
        kinds = {restoration.module for restoration in restorations if restoration.module is not None}
        for kind in sorted(kinds):
            modules = self._sites.modules(kind)
            for block, (module, outputs) in enumerate(zip(modules, runs.outputs[kind], strict=True)):
                replaced = [
                    (index, restoration)
                    for index, restoration in enumerate(restorations)
                    if restoration.module == kind and block in restoration.blocks
                ]
                if not replaced:
                    continue
                rows = torch.cat([index * runs.samples + samples for index, _ in replaced])
                columns = torch.tensor([r.token - start for _, r in replaced]).repeat_interleave(runs.samples)
                values = [
                    outputs[1:, r.token] if r.frozen else outputs[:1, r.token].expand(runs.samples, -1)
                    for _, r in replaced
                ]
                yield replacing_positions(module, rows, columns, torch.cat(values), runs.n_tokens - start)


def answer_probabilities(logits: Tensor, answer: int) -> Tensor:
    """Return the probability of a token: logits ``(rows, vocabulary)`` to ``(rows,)``, in float32 or wider."""
    n_rows = _ROWS_IN_CACHE if logits.device.type == "cpu" else max(len(logits), 1)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    parts = (part.to(dtype) for part in logits.split(n_rows))
    return torch.cat([(part[:, answer] - part.logsumexp(dim=1)).exp() for part in parts])
