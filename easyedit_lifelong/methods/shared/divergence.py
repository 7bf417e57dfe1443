"""The KL divergence between a model's predictions during and before training, as a term of a loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ROUNDING = 1000
"""Upper bound on how much batching with other rows can change a log-probability, in units in the last place (ULP)."""


class KLDivergence(torch.autograd.Function):
    """KL(now ‖ before) of two distributions; the direction is that of MEMIT's loss. Differentiable in ``logits``.

    Changes within rounding error count as zero. With torch's own operations, the gradient of an unchanged distribution
    would be a rounding error instead of zero. Where there is no other gradient, Adam would turn this error into a full
    step.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, before: Tensor) -> Tensor:
        """Return each row's divergence.

        Args:
            ctx: the context of autograd.
            logits: the present logits, shape ``(rows, vocabulary)``.
            before: the earlier log-probabilities, shape ``(rows, vocabulary)``.

        Returns:
            Shape ``(rows,)``.
        """
        now = logits.log_softmax(dim=1)
        difference = now - before
        rounding = _ROUNDING * torch.finfo(now.dtype).eps * before.abs().clamp(min=1)
        difference[difference.abs() <= rounding] = 0
        divergence = (now.exp() * difference).sum(dim=1)
        ctx.save_for_backward(now, difference, divergence)
        return divergence

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Return the gradient with respect to the logits, shape ``(rows, vocabulary)``."""
        (grad,) = grads
        now, difference, divergence = ctx.saved_tensors
        return now.exp() * (difference - divergence.unsqueeze(1)) * grad.unsqueeze(1), None
