"""The KL divergence of a target vector's loss: torch's, but exactly zero where only rounding differs."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from easyedit_lifelong.methods.shared.divergence import KLDivergence


def test_the_divergence_and_its_gradient_equal_torchs() -> None:
    torch.manual_seed(0)
    before = torch.randn(3, 11, dtype=torch.float64).log_softmax(dim=1)
    logits = torch.randn(3, 11, dtype=torch.float64, requires_grad=True)
    expected = F.kl_div(before, logits.log_softmax(dim=1), log_target=True, reduction="none").sum(dim=1)
    divergence = KLDivergence.apply(logits, before)
    torch.testing.assert_close(divergence, expected)
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    (grad,) = torch.autograd.grad(divergence, logits, weights)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, logits, weights)[0])
    torch.autograd.gradcheck(lambda values: KLDivergence.apply(values, before), logits)


def test_distributions_that_differ_by_rounding_have_no_divergence_and_no_gradient() -> None:
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        logits = (10 * torch.randn(2, 50, dtype=dtype)).requires_grad_(True)
        before = logits.detach().log_softmax(dim=1)
        rounded = before * (1 + 20 * torch.finfo(dtype).eps)
        divergence = KLDivergence.apply(logits, rounded)
        (grad,) = torch.autograd.grad(divergence.sum(), logits)
        assert (divergence == 0).all()
        assert (grad == 0).all()
        (grad,) = torch.autograd.grad(
            KLDivergence.apply(logits, rounded + 0.01 * torch.randn_like(before)).sum(), logits
        )
        assert grad.norm() > 0
