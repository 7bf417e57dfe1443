"""The second moments that a method's hyperparameters name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from easyedit_lifelong.covariance import SecondMoment, obtain_moments
from easyedit_lifelong.methods.shared.editors import without_edits


def named_moments(
    model: Any,
    tokenizer: Any,
    paths: Sequence[str],
    hparams: Any,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, SecondMoment]:
    """Return E[kkᵀ] of the inputs of linear layers: from disk, or collected (and stored) in one pass.

    Args:
        model: the model; edits that editors have put on it are left out.
        tokenizer: its tokenizer.
        paths: the layers.
        hparams: name the corpus, its amount and the folder: ``stats_dir``, ``mom2_*`` and ``seed``.
        progress: called with tokens, or documents, done and in all.

    Returns:
        By path; each moment has the shape ``(inputs, inputs)``.

    Raises:
        CovarianceError: a stored file cannot be used, or the corpus is not available.
        ModelError: a layer is no linear projection.
    """
    with without_edits(model):
        return obtain_moments(
            model,
            tokenizer,
            paths,
            stats_dir=hparams.stats_dir,
            dataset=hparams.mom2_dataset,
            n_samples=hparams.mom2_n_samples,
            n_tokens=hparams.mom2_n_tokens,
            dtype=hparams.mom2_dtype,
            engine=hparams.mom2_engine,
            seed=hparams.seed,
            progress=progress,
        )
