"""The job of one call: which second moments are wanted, of which text, and in which files."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyedit_lifelong.covariance.blocks import Amount
from easyedit_lifelong.covariance.corpus import Corpus
from easyedit_lifelong.covariance.identity import Identity
from easyedit_lifelong.covariance.key_modules import key_sizes
from easyedit_lifelong.covariance.moment_paths import moments_file
from easyedit_lifelong.errors import CovarianceError
from easyedit_lifelong.models.fingerprint import model_fingerprint
from easyedit_lifelong.models.load import context_length, model_label

TOKENS_CONTEXT = 512
"""Maximum length of a row if the amount is in tokens. Prompts of edits are short, and short rows cost less."""
TOKENS_PER_DIMENSION = 10
"""Default amount: this many tokens per dimension of the largest key."""


@dataclass(frozen=True)
class Job:
    """The second moments that one call wants, with all settings resolved for a model.

    Attributes:
        model: the causal language model.
        sizes: key size by path of the module.
        corpus: the text.
        amount: how much text is read.
        n_samples: number of documents of a stored file that is accepted instead.
        context: maximum length of a row, in tokens.
        requested_context: the ``context`` of the caller, which becomes part of file names; None if there is none.
        stats_dir: folder of all statistics; None for this package's cache.
        dtype: dtype of the stored sums.
        seed: seed of the order of documents, or of the sampling.
        save_every: seconds between two checkpoints of unfinished sums.
        block_tokens: number of tokens after which a block ends; None for the default.
        fingerprint: returns the fingerprint of the model's weights.
    """

    model: Any
    sizes: Mapping[str, int]
    corpus: Corpus
    amount: Amount
    n_samples: int | None
    context: int
    requested_context: int | None
    stats_dir: str | Path | None
    dtype: str
    seed: int
    save_every: float
    block_tokens: int | None
    fingerprint: Callable[[], str]

    @property
    def paths(self) -> dict[str, Path]:
        """The file of each module that a collection writes."""
        return {
            module: moments_file(
                self.stats_dir,
                self.model,
                module,
                self.corpus.label,
                self.dtype,
                self.amount.samples,
                n_tokens=self.amount.tokens,
                context=self.requested_context,
            )
            for module in self.sizes
        }

    def identity(self, module: str, *, by_samples: bool = False) -> Identity:
        """Return the identity of a module's second moments.

        Args:
            module: path of the module.
            by_samples: return the identity for :attr:`n_samples` documents instead of :attr:`amount`.
        """
        amount = Amount(samples=self.n_samples) if by_samples else self.amount
        context = row_length(self.model, amount, self.requested_context) if by_samples else self.context
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
    """Return a job with amount, context length and key sizes resolved.

    Args:
        model: causal language model.
        modules: paths of the modules whose inputs are the keys.
        corpus: the text.
        n_samples: amount as a number of documents.
        n_tokens: amount as a number of tokens. If neither is given: :data:`TOKENS_PER_DIMENSION` per dimension of the
            largest key.
        context: maximum length of a row in tokens; None for the default.
        counts_tokens: whether the amount is the number of tokens if both numbers are given.
        options: the other fields of :class:`Job`.

    Raises:
        CovarianceError: the amount or the context is invalid.
        ModelError: the model has no such module, or the module is no linear projection.
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
        context=row_length(model, amount, context),
        requested_context=context,
        fingerprint=functools.cache(lambda: model_fingerprint(model)),
        **options,
    )


def row_length(model: Any, amount: Amount, context: int | None) -> int:
    """Return the maximum length of a row, in tokens.

    Raises:
        CovarianceError: ``context`` is not positive or exceeds the model's context length.
    """
    longest = context_length(model) or math.inf
    if context is not None and not 0 < context <= longest:
        raise CovarianceError(f"context: {context} isn't between 1 and {longest}, the model's context length")
    default = TOKENS_CONTEXT if amount.samples is None or longest is math.inf else longest
    return int(min(default if context is None else context, longest))
