"""What keeps the trained weights near earlier ones: the EWC penalty, the KL penalty, and the norm constraint."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from easyedit_lifelong.methods.shared.divergence import KLDivergence
from easyedit_lifelong.methods.training.example_passes import ExamplePasses, Weights
from easyedit_lifelong.methods.training.examples import Example
from easyedit_lifelong.methods.training.train import Penalty


def fisher_information(passes: ExamplePasses, weights: Weights, examples: Sequence[Example]) -> dict[str, Tensor]:
    """Return the diagonal of the empirical Fisher information, F = mean over examples of (∂ log p/∂θ)².

    log p is the mean log-likelihood of the target tokens, as in GRACE's baseline.

    Args:
        passes: runs the examples.
        weights: θ.
        examples: the examples, at least one.

    Returns:
        F by path, each in the shape of its weight.
    """
    fisher = {path: torch.zeros_like(weight) for path, weight in weights.items()}
    for example in examples:
        loss = passes.losses([example], weights).losses.sum()
        for path, gradient in zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True):
            fisher[path] += gradient.square() / len(examples)
    return fisher


def ewc_penalty(weight: float, fisher: Weights, centers: Weights) -> Penalty:
    """Return the EWC penalty λ Σ F (θ - θ*)² (Kirkpatrick et al., arXiv 1612.00796, without their factor of 1/2).

    Args:
        weight: λ.
        fisher: F by path.
        centers: θ* by path.
    """

    def penalty(_: Sequence[Example], weights: Weights) -> Tensor:
        terms = [(fisher[path] * (weights[path] - centers[path]).square()).sum() for path in weights]
        return weight * torch.stack(terms).sum()

    return penalty


def kl_penalty(weight: float, passes: ExamplePasses, before: Weights) -> Penalty:
    """Return the mean KL divergence of the predictions within the prompts, times ``weight``.

    Args:
        weight: the factor.
        passes: runs the examples, twice in each step: the earlier predictions are not kept.
        before: the weights that the earlier predictions are made with.
    """

    def penalty(examples: Sequence[Example], weights: Weights) -> Tensor:
        with torch.no_grad():
            log_probs = passes.prompt_logits(examples, before).log_softmax(dim=1)
        if not len(log_probs):
            return log_probs.new_zeros(())
        divergence: Tensor = KLDivergence.apply(passes.prompt_logits(examples, weights), log_probs)
        return weight * divergence.mean()

    return penalty


@torch.no_grad()
def clamp_change(weights: Weights, centers: Weights, limit: float, norm: str) -> None:
    """Move weights, in place, to the nearest ones whose change is within a limit (arXiv 2012.00363, section 3.3).

    Args:
        weights: the weights.
        centers: the weights that the change is measured from.
        limit: the largest change of each weight matrix.
        norm: ``linf`` or ``l2``.
    """
    for path, weight in weights.items():
        center = centers[path]
        if norm == "linf":
            weight.copy_(torch.clamp(weight, center - limit, center + limit))
            continue
        change = weight - center
        if (length := change.norm()) > limit:
            weight.copy_(center + change * (limit / length))
