"""The divergence of a model's predictions from earlier ones, as a term of a loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ROUNDING = 1000
"""How far a log-probability moves at most, in units in the last place, when rows are computed beside others."""


class Drift(torch.autograd.Function):
    """KL(now ‖ before), in MEMIT's direction; differentiable in the predictions now.

    A change within rounding has no gradient. Composed of torch's operations, the divergence would have a rounding error
    for a gradient, and Adam turns that into a full step where there is no other gradient.
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
