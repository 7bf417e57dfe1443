"""The second moments that a method needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from easyedit_lifelong.covariance import SecondMoment
from easyedit_lifelong.methods.locate_edit.config import LocateEditHyperParams
from easyedit_lifelong.methods.shared.second_moments import named_moments


def second_moments(
    model: Any, tokenizer: Any, hparams: LocateEditHyperParams, progress: Callable[[int, int], None] | None = None
) -> dict[str, SecondMoment]:
    """Read the second moments E[kkᵀ] of layers from disk, or collect and store them in one pass.

    Args:
        model: the model. Its edits are left out while second moments are collected.
        tokenizer: its tokenizer.
        hparams: name the projections, the corpus, how much of it to read, and the folder.
        progress: called with the number of tokens or documents that are done, and their total.

    Returns:
        The second moment of each layer of ``hparams.moment_paths``, shape ``(inputs, inputs)``, by path; none if
        ``mom2_adjustment`` is false.

    Raises:
        CovarianceError: a stored file cannot be used, or the corpus is not available.
    """
    if not hparams.mom2_adjustment:
        return {}
    return named_moments(model, tokenizer, hparams.moment_paths, hparams, progress)
