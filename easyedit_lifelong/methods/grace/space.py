"""What a codebook's keys are compared in: made of hyperparameters, and of what the first edit found."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from easyedit_lifelong.methods.grace.codebook import Codebook
from easyedit_lifelong.methods.grace.config import GraceHyperParams


@dataclass(frozen=True)
class KeySpace:
    """What isn't in the hyperparameters.

    Attributes:
        gate_size: width of a gate; 0 without.
        whitening: of queries; see :func:`~easyedit_lifelong.methods.grace.whitening.whitening_of`. None for none.
    """

    gate_size: int = 0
    whitening: Tensor | None = None


def new_codebook(
    hparams: GraceHyperParams, key_width: int, value_width: int, gate_size: int, rounding: float,
    device: torch.device | str | None = None,
) -> Codebook:  # fmt: skip
    """Return an empty codebook.

    Args:
        hparams: GRACE's hyperparameters.
        key_width: of a key with all its views.
        value_width: of a value with what stands behind it.
        gate_size: width of a gate.
        rounding: see :func:`~easyedit_lifelong.methods.grace.codebook.rounding_of`.
        device: where to keep it.
    """
    own = hparams.eps == "auto"
    return Codebook(
        key_width // hparams.views, value_width - gate_size - own, eps=0.0 if own else float(hparams.eps),
        dist_fn=hparams.dist_fn, eps_expand=hparams.eps_expand, rounding=rounding, device=device, views=hparams.views,
        gate_size=gate_size, gate_eps=hparams.gate_eps, own_eps=own,
    )  # fmt: skip
