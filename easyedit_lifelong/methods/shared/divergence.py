"""How far what the model says behind a subject has moved: the divergence in the loss of a target vector."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ROUNDING = 1000
"""How far a log-probability moves at most, in units in the last place, when rows are computed beside others."""


class Drift(torch.autograd.Function):
    """KL(now ‖ before), in MEMIT's direction; differentiable in what is said now.

    What has moved by no more than rounding has no gradient. Composed of torch's operations it has a rounding error for
    one, which Adam makes steps of where there is no other.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, before: Tensor) -> Tensor:
        """Return each row's divergence.

        Args:
            ctx: autograd's.
            logits: now, shape ``(rows, vocabulary)``.
            before: log-probabilities before, same shape.
        """
        now = logits.log_softmax(dim=1)
        moved = now - before
        moved[moved.abs() <= _ROUNDING * torch.finfo(now.dtype).eps * before.abs().clamp(min=1)] = 0
        drift = (now.exp() * moved).sum(dim=1)
        ctx.save_for_backward(now, moved, drift)
        return drift

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the logits."""
        (grad,) = grads
        now, moved, drift = ctx.saved_tensors
        return now.exp() * (moved - drift.unsqueeze(1)) * grad.unsqueeze(1), None
