"""The second moments that CoachHook's hyperparameters name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from easyedit_lifelong.covariance import SecondMoment, obtain_moments
from easyedit_lifelong.methods.coachhook.config import CoachHookHyperParams


def second_moments(
    model: Any, tokenizer: Any, hparams: CoachHookHyperParams, progress: Callable[[int, int], None] | None = None
) -> dict[str, SecondMoment]:
    """Return E[kkᵀ] of every edited projection: from disk, or collected (and stored) in one pass.

    Args:
        model: the unedited model.
        tokenizer: its tokenizer.
        hparams: name the projections, the corpus, its amount and the folder.
        progress: hears of tokens, or documents, done and in all.

    Raises:
        CovarianceError: a stored file can't be used, or the corpus can't be had.
    """
    return obtain_moments(
        model, tokenizer, hparams.rewrite_modules, stats_dir=hparams.stats_dir, dataset=hparams.mom2_dataset,
        n_samples=hparams.mom2_n_samples, n_tokens=hparams.mom2_n_tokens, dtype=hparams.mom2_dtype,
        engine=hparams.mom2_engine,
        seed=hparams.seed, progress=progress,
    )  # fmt: skip
