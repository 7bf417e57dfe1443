"""Compare keys as if all directions varied alike: whitening by second moments (MEMIT's E[kkᵀ]).

Activations of a language model share a few directions in which all are long; by cosine, everything is then near
everything. Dividing each direction by its root mean square undoes that. Only the leading directions stand out, so only
they are divided, and the others stay as they are: that is as good (docs/grace-subject.md), and a tall matrix is
all that has to be kept with the edits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.named_layers import find_layer
from easyedit_lifelong.methods.shared.second_moments import named_moments

RANK = 64
"""Directions that are divided."""


def whitening_of(moment: Tensor, rank: int = RANK) -> Tensor:
    """Return the matrix B of a whitening x - BBᵀx.

    Args:
        moment: E[kkᵀ], shape ``(d, d)``.
        rank: leading directions that are made as long as the others are on average.

    Returns:
        Shape ``(d, rank)``, or narrower for a small d; float32.
    """
    squares, directions = torch.linalg.eigh(moment.double())
    rank = min(rank, len(squares) - 1)
    leading = squares[len(squares) - rank :].clamp_min(torch.finfo(torch.float64).tiny)
    others = squares[: len(squares) - rank].clamp_min(0).mean()
    kept = (others / leading).sqrt().clamp_max(1.0)
    # Laid out as it will be when it comes from a file: products with it are then the same, bit by bit.
    return (directions[:, len(squares) - rank :] * (1 - kept).sqrt()).float().contiguous()


def whitened(vectors: Tensor, basis: Tensor | None) -> Tensor:
    """Return vectors in the space that keys are compared in, float32.

    Args:
        vectors: shape ``(..., d)``, any dtype.
        basis: what :func:`whitening_of` returned; None to leave them as they are.
    """
    vectors = vectors.float()
    return vectors if basis is None else vectors - (vectors @ basis) @ basis.t()


def whitening_for(model: Any, tokenizer: Any, path: str, hparams: GraceHyperParams) -> Tensor:
    """Return the whitening of a layer's inputs: from second moments on disk, or collected in one pass.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        path: of the layer.
        hparams: name the corpus, its amount and the folder.

    Raises:
        CovarianceError: a stored file can't be used, or the corpus can't be had.
        ModelError: the layer is no linear projection.
    """
    return whitening_of(named_moments(model, tokenizer, [path], hparams)[path].moment)


def prepare_whitening(
    model: Any, tokenizer: Any, hparams: GraceHyperParams, progress: Callable[[int, int], None] | None = None
) -> None:
    """Have the second moments on disk that the first edit whitens by, if it does; see :func:`whitening_for`.

    Args:
        model: the unedited model.
        tokenizer: its tokenizer.
        hparams: GRACE's hyperparameters.
        progress: called with tokens, or documents, done and in all.
    """
    if hparams.whiten:
        named_moments(model, tokenizer, [find_layer(model, hparams)[0]], hparams, progress)
