"""A job: second moments that are asked for, what they are of, and where they lie."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyedit_lifelong.covariance.corpus import Corpus
from easyedit_lifelong.covariance.files import moments_file
from easyedit_lifelong.covariance.identity import Identity
from easyedit_lifelong.covariance.layers import key_sizes
from easyedit_lifelong.covariance.plan import Amount
from easyedit_lifelong.errors import CovarianceError
from easyedit_lifelong.models.fingerprint import model_fingerprint
from easyedit_lifelong.models.load import context_length, model_label

TOKENS_CONTEXT = 512
"""Longest row where the amount is given in tokens: edits are short, and short rows are cheap."""
TOKENS_PER_DIMENSION = 10
"""Tokens per key dimension that are taken where nobody says how many."""


@dataclass(frozen=True)
class Job:
    """Second moments that are asked for, resolved against a model.

    Attributes:
        model: the causal language model.
        sizes: key size by path of the module.
        corpus: the text.
        amount: how much of it is collected.
        n_samples: documents that a stored file may hold instead.
        context: longest row, in tokens.
        named_context: the one that was asked for, which file names hold; None if none was.
        stats_dir: folder of all statistics; None for this package's cache.
        dtype: of the stored sums.
        seed: of the order of documents, or of the sampling.
        save_every: seconds between two writings of unfinished sums.
        block_tokens: tokens after which a block ends; None for the default.
        fingerprint: returns the fingerprint of the model's weights.
    """

    model: Any
    sizes: Mapping[str, int]
    corpus: Corpus
    amount: Amount
    n_samples: int | None
    context: int
    named_context: int | None
    stats_dir: str | Path | None
    dtype: str
    seed: int
    save_every: float
    block_tokens: int | None
    fingerprint: Callable[[], str]

    @property
    def paths(self) -> dict[str, Path]:
        """Where each module's file is to go."""
        return {
            module: moments_file(
                self.stats_dir,
                self.model,
                module,
                self.corpus.label,
                self.dtype,
                self.amount.samples,
                n_tokens=self.amount.tokens,
                context=self.named_context,
            )
            for module in self.sizes
        }

    def identity(self, module: str, *, by_samples: bool = False) -> Identity:
        """Return what a module's second moments are of.

        Args:
            module: path of the module.
            by_samples: of :attr:`n_samples` documents, rather than of the amount that is collected.
        """
        amount = Amount(samples=self.n_samples) if by_samples else self.amount
        context = longest_row(self.model, amount, self.named_context) if by_samples else self.context
        return Identity(
            model_label(self.model),
            self.fingerprint(),
            module,
            dict(self.corpus.identity),
            amount.tokens,
            amount.samples,
            self.dtype,
            context,
            self.seed,
        )


def make_job(
    model: Any,
    modules: Sequence[str],
    corpus: Corpus,
    *,
    n_samples: int | None,
    n_tokens: int | None,
    context: int | None,
    counts_tokens: bool = True,
    **options: Any,
) -> Job:
    """Resolve what is asked for.

    Args:
        model: causal language model.
        modules: paths of the modules whose inputs are the keys.
        corpus: the text.
        n_samples: number of documents.
        n_tokens: number of tokens; with neither, :data:`TOKENS_PER_DIMENSION` for each dimension of the largest key.
        context: longest row of tokens; None for the default.
        counts_tokens: whether tokens are collected where both numbers are given, rather than documents.
        options: the other fields of :class:`Job`.

    Raises:
        CovarianceError: the amount or the context cannot be.
        ModelError: there is no such module, or it is no linear projection.
    """
    sizes = key_sizes(model, modules)
    if n_samples is None and n_tokens is None:
        n_tokens = TOKENS_PER_DIMENSION * max(sizes.values())
    by_tokens = n_tokens is not None and (counts_tokens or n_samples is None)
    amount = Amount(tokens=n_tokens) if by_tokens else Amount(samples=n_samples)
    return Job(
        model=model,
        sizes=sizes,
        corpus=corpus,
        amount=amount,
        n_samples=n_samples,
        context=longest_row(model, amount, context),
        named_context=context,
        fingerprint=functools.cache(lambda: model_fingerprint(model)),
        **options,
    )


def longest_row(model: Any, amount: Amount, context: int | None) -> int:
    """Return the longest row to read, in tokens.

    Raises:
        CovarianceError: the model doesn't take that.
    """
    longest = context_length(model) or math.inf
    if context is not None and not 0 < context <= longest:
        raise CovarianceError(f"context: {context} isn't between 1 and {longest}, the most the model takes")
    default = TOKENS_CONTEXT if amount.samples is None or longest is math.inf else longest
    return int(min(default if context is None else context, longest))
