"""What is asked for, and what of it is on disk already."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyedit_lifelong.covariance.corpus import Corpus
from easyedit_lifelong.covariance.files import moments_file, stored_files
from easyedit_lifelong.covariance.identity import Identity, check_sidecar, read_sidecar
from easyedit_lifelong.covariance.moments import SecondMoment
from easyedit_lifelong.covariance.npz import read_moments
from easyedit_lifelong.covariance.plan import Amount
from easyedit_lifelong.covariance.shards import Shard
from easyedit_lifelong.errors import CovarianceError
from easyedit_lifelong.models.load import context_length, model_label

LOG = logging.getLogger(__name__)

TOKENS_CONTEXT = 512
"""Longest row where the amount is given in tokens: edits are short, and short rows are cheap."""


@dataclass(frozen=True)
class Wanted:
    """What is asked for, resolved against the model.

    Attributes:
        sizes: key size by path of the module.
        corpus: the text.
        amount: how much of it is collected if it isn't found.
        n_samples: documents that a stored file may hold instead.
        context: longest row, in tokens.
        named_context: the one that was asked for, which file names hold; None if none was.
        stats_dir: folder of all statistics.
        dtype: of the stored sums.
        seed: of the order of documents, or of the sampling.
    """

    sizes: Mapping[str, int]
    corpus: Corpus
    amount: Amount
    n_samples: int | None
    context: int
    named_context: int | None
    stats_dir: str | Path | None
    dtype: str
    seed: int


def longest_row(model: Any, amount: Amount, context: int | None) -> int:
    """Return the longest row to read, in tokens.

    Raises:
        CovarianceError: the model doesn't take that.
    """
    longest = context_length(model) or math.inf
    usual = TOKENS_CONTEXT if amount.samples is None or longest is math.inf else longest
    asked = usual if context is None else context
    if context is not None and not 0 < context <= longest:
        raise CovarianceError(f"context: {context} isn't between 1 and {longest}, the most the model takes")
    return int(min(asked, longest))


def identity_of(model: Any, wanted: Wanted, module: str, fingerprint: str) -> Identity:
    """Say what a module's second moments will be of."""
    return Identity(
        model_label(model), fingerprint, module, dict(wanted.corpus.identity), wanted.amount.tokens,
        wanted.amount.samples, wanted.dtype, wanted.context, wanted.seed,
    )  # fmt: skip


def paths_of(model: Any, wanted: Wanted, modules: Iterable[str]) -> dict[str, Path]:
    """Return where each module's file is to go."""
    return {
        module: moments_file(
            wanted.stats_dir, model, module, wanted.corpus.label, wanted.dtype, wanted.amount.samples,
            n_tokens=wanted.amount.tokens, context=wanted.named_context,
        )
        for module in modules
    }  # fmt: skip


def look(model: Any, wanted: Wanted, fingerprint: Callable[[], str], found: dict[str, SecondMoment]) -> dict[str, Path]:
    """Find and check what is on disk; returns where each module's file is."""
    where = {}
    for module, d in wanted.sizes.items():
        files = stored_files(
            wanted.stats_dir, model, module, wanted.corpus.label, wanted.dtype, n_samples=wanted.n_samples,
            n_tokens=wanted.amount.tokens, context=wanted.named_context,
        )  # fmt: skip
        if files:
            found[module] = _read(files[0], model, wanted, module, d, fingerprint)
            where[module] = files[0]
    return where


def _read(path: Path, model: Any, wanted: Wanted, module: str, d: int, fingerprint: Callable[[], str]) -> SecondMoment:
    sidecar = read_sidecar(path)
    by_tokens = path.stem.endswith("tokens")
    if sidecar is None:
        LOG.info("%s: published statistics; nothing says of which weights, so that isn't checked", path)
    else:
        identity = identity_of(model, wanted, module, fingerprint())
        if not by_tokens:
            context = longest_row(model, Amount(samples=wanted.n_samples), wanted.named_context)
            identity = dataclasses.replace(identity, tokens=None, samples=wanted.n_samples, context=context)
        check_sidecar(path, sidecar, identity)
        if sidecar.get("bytes") != path.stat().st_size:
            raise CovarianceError(
                f"{path}: is {path.stat().st_size} bytes long, but its sidecar says {sidecar.get('bytes')}: "
                "truncated or replaced. Delete both to collect anew."
            )
    return read_moments(path, d, None if by_tokens else wanted.n_samples)


def read_found(where: Mapping[str, Path], wanted: Wanted, shard: Shard, found: dict[str, SecondMoment]) -> None:
    """Read what the first process found, in the others."""
    for module, path in where.items():
        if module not in found:
            if not path.is_file():
                raise CovarianceError(f"{path}: process {shard.rank} can't see this file; use a folder that all share")
            found[module] = read_moments(path, wanted.sizes[module])
