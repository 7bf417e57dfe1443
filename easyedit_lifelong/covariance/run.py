"""One collection, from its first block to the stored files."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from easyedit_lifelong.clock import now
from easyedit_lifelong.covariance.collect import KeyTaker, add_block
from easyedit_lifelong.covariance.corpus import Corpus
from easyedit_lifelong.covariance.identity import Identity, read_sidecar, sidecar_of, write_sidecar
from easyedit_lifelong.covariance.moments import MomentSum, SecondMoment
from easyedit_lifelong.covariance.npz import check_writable, mean_of, write_moments
from easyedit_lifelong.covariance.partial import PartialSums, Progress
from easyedit_lifelong.covariance.plan import BLOCK_TOKENS, Amount, Plan, TextPlan
from easyedit_lifelong.covariance.sampling import SampledPlan
from easyedit_lifelong.covariance.shards import Shard, add_up, on_first
from easyedit_lifelong.errors import CovarianceError
from easyedit_lifelong.models.modes import evaluating
from easyedit_lifelong.versions import package_versions

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Collection:
    """What to collect and where to put it.

    Attributes:
        sizes: key size by path of the module.
        identities: what each module's file will be of.
        corpus: the text.
        amount: how much of it.
        context: longest row, in tokens.
        seed: of the order of documents, or of the sampling.
        dtype: of the stored sums.
        paths: each module's file.
        save_every: seconds between two writings of unfinished sums.
        block_tokens: tokens after which a block ends.
    """

    sizes: Mapping[str, int]
    identities: Mapping[str, Identity]
    corpus: Corpus
    amount: Amount
    context: int
    seed: int
    dtype: str
    paths: Mapping[str, Path]
    save_every: float
    block_tokens: int | None

    @property
    def what(self) -> dict[str, Any]:
        """Everything that makes unfinished sums this collection's, but its modules."""
        shared = asdict(next(iter(self.identities.values())))
        return {**shared, "module": None, "block_tokens": self.block_tokens or BLOCK_TOKENS}


def collect(
    model: Any,
    tokenizer: Any,
    job: Collection,
    shard: Shard,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, SecondMoment]:
    """Collect, add up over the processes, and store.

    Raises:
        CovarianceError: the keys can't be taken, there were none, or a file can't be written.
        DataError: the corpus can't be had.
    """
    folder = next(iter(job.paths.values())).parent
    check_writable(folder)
    partial = PartialSums(folder, job.what, shard, job.save_every)
    state = partial.load(job.sizes)
    with evaluating(model):
        plan = _plan(model, tokenizer, job)
        _run(model, tokenizer, plan, state, partial, shard, progress)
    add_up(shard, list(state.sums.values()))
    counts = {total.count for total in state.sums.values()}
    if counts == {0}:
        raise CovarianceError(f"corpus {job.corpus.label!r}: its documents hold no tokens")
    _warn_if_short(job, state)
    moments = {
        module: SecondMoment(_mean(total, job.dtype), total.count, str(job.paths[module]))
        for module, total in state.sums.items()
    }
    on_first(shard, lambda: _store(job, state, shard))
    partial.remove()
    return moments


def _mean(total: MomentSum, dtype: str) -> torch.Tensor:
    """Return the mean that reading the stored file will give, to the last bit."""
    stored = total.symmetric().to(getattr(torch, dtype))
    return mean_of(stored, total.count)


def _plan(model: Any, tokenizer: Any, job: Collection) -> Plan:
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
    total = plan.amount.total
    began, before = time.monotonic(), state.seconds
    for block in plan.blocks(state.position):
        if shard.takes(block.after.block - 1):
            add_block(taker, block)
        state.position = block.after
        state.seconds = before + time.monotonic() - began
        partial.save(state)
        if progress is not None:
            done = block.after.tokens if plan.amount.samples is None else block.after.documents
            progress(min(done, total), total)


def _warn_if_short(job: Collection, state: Progress) -> None:
    asked, tokens = job.amount.total, state.position.tokens
    if job.amount.tokens is not None and tokens < asked:
        LOG.warning("corpus %r holds only %d of the %d tokens asked for", job.corpus.label, tokens, asked)
    if job.amount.samples is not None and state.position.documents < asked:
        LOG.warning("corpus %r holds only %d of %d documents", job.corpus.label, state.position.documents, asked)


def _store(job: Collection, state: Progress, shard: Shard) -> None:
    """Write every module's file and sidecar; a file that came up meanwhile stays, if it is of the same."""
    samples = job.amount.samples if job.amount.samples is not None else state.position.documents
    for module, path in job.paths.items():
        total, identity = state.sums[module], job.identities[module]
        facts = {
            "key_size": total.d, "count": total.count, "documents": state.position.documents,
            "self_sampled": job.corpus.self_sampled, "processes": shard.world, "seconds": round(state.seconds, 1),
            "versions": package_versions(),
            "created": now(),
        }  # fmt: skip

        def describe(
            size: int, path: Path = path, identity: Identity = identity, facts: dict[str, Any] = facts
        ) -> None:
            write_sidecar(path, identity, {**facts, "bytes": size})

        try:
            write_moments(path, total.total, total.count, samples, job.dtype, before=describe)
        except FileExistsError:
            _keep_if_same(path, identity, total)


def _keep_if_same(path: Path, identity: Identity, total: MomentSum) -> None:
    content = read_sidecar(path) or {}
    same = content.get("fingerprint") == identity.fingerprint and content.get("count") == total.count
    if not same:
        raise CovarianceError(
            f"{path}: is there already, and isn't of this model and text (see {sidecar_of(path).name}); "
            "it was not replaced. Delete it or name another folder."
        )
    LOG.warning("%s: another process stored it first; it stays", path)
