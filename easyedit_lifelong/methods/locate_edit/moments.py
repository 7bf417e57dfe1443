"""The second moments of the edited projections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from easyedit_lifelong.covariance import SecondMoment
from easyedit_lifelong.methods.locate_edit.config import LocateEditHyperParams
from easyedit_lifelong.methods.shared.second_moments import named_moments


def second_moments(
    model: Any, tokenizer: Any, hparams: LocateEditHyperParams, progress: Callable[[int, int], None] | None = None
) -> dict[str, SecondMoment]:
    """Return E[kkᵀ] of every edited projection: from disk, or collected (and stored) in one pass.

    Args:
        model: the model; edits that editors have put on it are left out.
        tokenizer: its tokenizer.
        hparams: name the projections, the corpus, its amount and the folder.
        progress: called with tokens, or documents, done and in all.

    Returns:
        By path of the projection; each moment has the shape ``(inputs, inputs)``.

    Raises:
        CovarianceError: a stored file cannot be used, or the corpus is not available.
    """
    return named_moments(model, tokenizer, hparams.rewrite_modules, hparams, progress)
