"""The native engine: one pass over the text for all modules, resumable, shared among processes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from easyedit_lifelong.covariance.collect import KeyTaker, add_block
from easyedit_lifelong.covariance.job import Job
from easyedit_lifelong.covariance.moments import SecondMoment
from easyedit_lifelong.covariance.npz import check_writable, mean_of
from easyedit_lifelong.covariance.partial import PartialSums, Progress
from easyedit_lifelong.covariance.plan import BLOCK_TOKENS, Plan, TextPlan
from easyedit_lifelong.covariance.sampling import SampledPlan
from easyedit_lifelong.covariance.shards import Shard, add_up, on_first
from easyedit_lifelong.covariance.stored import store
from easyedit_lifelong.errors import CovarianceError
from easyedit_lifelong.models.modes import evaluating

LOG = logging.getLogger(__name__)


def collect(
    model: Any, tokenizer: Any, job: Job, shard: Shard, progress: Callable[[int, int], None] | None = None
) -> dict[str, SecondMoment]:
    """Collect, add up over the processes, and store.

    Raises:
        CovarianceError: the keys can't be taken, there were none, or a file can't be written.
        DataError: the corpus can't be had.
    """
    folder = next(iter(job.paths.values())).parent
    check_writable(folder)
    # Everything that makes unfinished sums this collection's, but its modules.
    what = {**asdict(job.identity(next(iter(job.sizes)))), "module": None}
    partial = PartialSums(folder, {**what, "block_tokens": job.block_tokens or BLOCK_TOKENS}, shard, job.save_every)
    state = partial.load(job.sizes)
    with evaluating(model):
        _run(model, tokenizer, _plan(model, tokenizer, job), state, partial, shard, progress)
    add_up(shard, list(state.sums.values()))
    if not any(total.count for total in state.sums.values()):
        raise CovarianceError(f"corpus {job.corpus.label!r}: its documents hold no tokens")
    _warn_if_short(job, state)
    moments = {
        # The mean that reading the stored file will give, to the last bit.
        module: SecondMoment(
            mean_of(total.symmetric().to(getattr(torch, job.dtype)), total.count), total.count, str(job.paths[module])
        )
        for module, total in state.sums.items()
    }
    facts = {"engine": "native", "processes": shard.world, "seconds": round(state.seconds, 1)}
    on_first(shard, lambda: store(job, state.sums, state.position.documents, **facts))
    partial.remove()
    return moments


def _plan(model: Any, tokenizer: Any, job: Job) -> Plan:
    if job.corpus.self_sampled:
        LOG.info("sampling text from the model itself: no corpus was given")
        return SampledPlan(model, tokenizer, job.amount, job.context, job.seed)
    block_tokens = job.block_tokens or BLOCK_TOKENS
    return TextPlan(job.corpus.open(), tokenizer, job.amount, job.context, job.seed, block_tokens)


def _run(
    model: Any,
    tokenizer: Any,
    plan: Plan,
    state: Progress,
    partial: PartialSums,
    shard: Shard,
    progress: Callable[[int, int], None] | None,
) -> None:
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
    taker = KeyTaker(model, state.sums, pad)
    began = time.monotonic() - state.seconds
    for block in plan.blocks(state.position):
        if shard.takes(block.after.block - 1):
            add_block(taker, block)
        state.position = block.after
        state.seconds = time.monotonic() - began
        partial.save(state)
        if progress is not None:
            progress(min(plan.amount.of(block.after), plan.amount.total), plan.amount.total)


def _warn_if_short(job: Job, state: Progress) -> None:
    found, total = job.amount.of(state.position), job.amount.total
    if found < total:
        text = "only %d of the %d tokens asked for" if job.amount.samples is None else "only %d of %d documents"
        LOG.warning(f"corpus %r holds {text}", job.corpus.label, found, total)
