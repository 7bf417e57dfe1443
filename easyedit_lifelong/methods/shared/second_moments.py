"""The second moments of layers' inputs that a method's hyperparameters ask for."""

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
    """Return the second moments E[kkᵀ] of the inputs of linear layers.

    Moments are read from disk where they are stored. The others are collected in one pass over the corpus, and stored.

    Args:
        model: the model; its edits are suspended meanwhile, see :func:`.without_edits`.
        tokenizer: its tokenizer.
        paths: the paths of the layers.
        hparams: hyperparameters with ``stats_dir`` (the folder), ``mom2_*`` (the corpus and its size) and ``seed``.
        progress: called with the number of tokens (or documents) read so far, and the total.

    Returns:
        The second moments by path; each has the shape ``(inputs, inputs)``.

    Raises:
        CovarianceError: a stored file cannot be used, or the corpus is not available.
        ModelError: a layer is not a linear projection.
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
