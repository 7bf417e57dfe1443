"""Whitening of keys and queries by second moments of the layer's inputs (MEMIT's E[kkᵀ]).

All activations of a language model have large components along a few shared directions. By cosine, any two activations
are then near each other. Whitening divides each direction by its root mean square. Here only the leading directions are
scaled down, to the average length of the others. This separates subjects as well as full whitening does
(docs/grace-subject.md), and only a tall matrix has to be stored with the edits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.methods.shared.second_moments import named_moments

RANK = 64
"""Number of leading directions that are scaled down."""


def whitening_of(moment: Tensor, rank: int = RANK) -> Tensor:
    """Return the matrix B that whitens a vector x as x - BBᵀx.

    Args:
        moment: E[kkᵀ], shape ``(d, d)``.
        rank: how many leading directions to scale down to the average length of the others.

    Returns:
        Shape ``(d, min(rank, d - 1))``, float32.
    """
    squares, directions = torch.linalg.eigh(moment.double())
    rank = min(rank, len(squares) - 1)
    leading = squares[len(squares) - rank :].clamp_min(torch.finfo(torch.float64).tiny)
    others = squares[: len(squares) - rank].clamp_min(0).mean()
    scales = (others / leading).sqrt().clamp_max(1.0)
    # Contiguous, as a matrix read from a file is: products with either are then bitwise equal.
    return (directions[:, len(squares) - rank :] * (1 - scales).sqrt()).float().contiguous()


def whitened(vectors: Tensor, basis: Tensor | None) -> Tensor:
    """Return whitened vectors, in float32.

    Args:
        vectors: shape ``(..., d)``, any dtype.
        basis: the matrix that :func:`whitening_of` returned; None for no whitening.

    Returns:
        Shape ``(..., d)``.
    """
    vectors = vectors.float()
    return vectors if basis is None else vectors - (vectors @ basis) @ basis.t()


def whitening_for(
    model: Any, tokenizer: Any, path: str, hparams: Any, progress: Callable[[int, int], None] | None = None
) -> Tensor:
    """Return the whitening matrix of a layer's inputs; see :func:`whitening_of`.

    The second moments are read from disk. If they are not there, they are collected in one pass over the corpus.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        path: path of the layer.
        hparams: name the corpus, how much of it to read, and the folder of the second moments.
        progress: called with the number of tokens (or documents) read so far, and the total.

    Raises:
        CovarianceError: a stored file can't be used, or the corpus isn't available.
        ModelError: the layer is not a linear projection.
    """
    return whitening_of(named_moments(model, tokenizer, [path], hparams, progress)[path].moment)
