"""The native engine: collects in one pass for all modules. Collections can be resumed and shared among processes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from easyedit_lifelong.covariance.blocks import BLOCK_TOKENS, Plan, TextPlan
from easyedit_lifelong.covariance.checkpoints import Checkpoints, Progress
from easyedit_lifelong.covariance.collect import KeyCollector, add_block
from easyedit_lifelong.covariance.job import Job
from easyedit_lifelong.covariance.moments import SecondMoment
from easyedit_lifelong.covariance.npz import check_writable, mean_of
from easyedit_lifelong.covariance.sampled_texts import SampledTexts
from easyedit_lifelong.covariance.sampling import SampledPlan
from easyedit_lifelong.covariance.shards import Shard, on_first_process, sum_over_processes
from easyedit_lifelong.covariance.stored import store
from easyedit_lifelong.errors import CovarianceError
from easyedit_lifelong.models.model_modes import evaluating

LOG = logging.getLogger(__name__)


def collect(
    model: Any, tokenizer: Any, job: Job, shard: Shard, progress: Callable[[int, int], None] | None = None
) -> dict[str, SecondMoment]:
    """Collect the second moments of a job, and store them.

    Args:
        model: the causal language model.
        tokenizer: its tokenizer.
        job: what to collect.
        shard: this process's part of the collection.
        progress: called with the amount read and the total.

    Returns:
        Second moments by module path, summed over all processes.

    Raises:
        CovarianceError: the keys can't be collected, there are none, or a file can't be written.
        DataError: the corpus can't be loaded.
    """
    folder = next(iter(job.paths.values())).parent
    check_writable(folder)
    # A checkpoint is used if all of these settings agree. Its modules are compared separately.
    any_module = next(iter(job.sizes))
    settings = {**asdict(job.identity(any_module)), "module": None, "block_tokens": job.block_tokens or BLOCK_TOKENS}
    checkpoints = Checkpoints(folder, settings, shard, job.save_every)
    state = checkpoints.load(job.sizes)
    with evaluating(model):
        _read_blocks(model, tokenizer, _make_plan(model, tokenizer, job), state, checkpoints, shard, progress)
    sum_over_processes(shard, list(state.sums.values()))
    if not any(moment_sum.count for moment_sum in state.sums.values()):
        raise CovarianceError(f"corpus {job.corpus.label!r}: its documents hold no tokens. Give another corpus.")
    _warn_if_short(job, state)
    dtype = getattr(torch, job.dtype)
    moments = {}
    for module, moment_sum in state.sums.items():
        stored = moment_sum.symmetric().to(dtype)  # rounded as in the file: reading it later must give the same
        mean = mean_of(stored, moment_sum.count)
        moments[module] = SecondMoment(mean, moment_sum.count, str(job.paths[module]))
    facts = {"engine": "native", "processes": shard.world_size, "seconds": round(state.seconds, 1)}
    on_first_process(shard, lambda: store(job, state.sums, state.position.documents, **facts))
    checkpoints.remove()
    return moments


def _make_plan(model: Any, tokenizer: Any, job: Job) -> Plan:
    """Return the plan of a job: text of its corpus, or text sampled from the model."""
    if job.corpus.self_sampled:
        LOG.info("sampling text from the model itself, since no corpus was given")
        folder = next(iter(job.paths.values())).parent
        stored = SampledTexts(folder, {"fingerprint": job.fingerprint(), "seed": str(job.seed)})
        return SampledPlan(model, tokenizer, job.amount, job.context, job.seed, stored)
    block_tokens = job.block_tokens or BLOCK_TOKENS
    return TextPlan(job.corpus.open(), tokenizer, job.amount, job.context, job.seed, block_tokens)


def _read_blocks(
    model: Any,
    tokenizer: Any,
    plan: Plan,
    state: Progress,
    checkpoints: Checkpoints,
    shard: Shard,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Read the remaining blocks of a plan, add this process's keys to the sums, and save the progress."""
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
    collector = KeyCollector(model, state.sums, pad)
    start = time.monotonic() - state.seconds
    for block in plan.blocks(state.position):
        if shard.owns_block(block.after.block - 1):
            add_block(collector, block)
        state.position = block.after
        state.seconds = time.monotonic() - start
        checkpoints.save(state)
        if progress is not None:
            progress(min(plan.amount.of(block.after), plan.amount.total), plan.amount.total)


def _warn_if_short(job: Job, state: Progress) -> None:
    """Log a warning if the corpus holds less text than the amount."""
    read, total = job.amount.of(state.position), job.amount.total
    if read < total:
        unit = "tokens" if job.amount.samples is None else "documents"
        LOG.warning("corpus %r holds only %d of %d %s", job.corpus.label, read, total, unit)
