"""Optimisers of several vectors treat each of them as if it were alone, and keep within the largest norms."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from easyedit_lifelong.methods.shared.vector_optimisers import ADAM, LBFGS, VectorOptimiser, make_optimiser

CENTRES = torch.tensor([[1.0, 2.0, -1.0], [0.1, -0.2, 0.3], [-4.0, 0.0, 3.0]], dtype=torch.float64)
"""The minima of the objectives Σ cᵢ (xᵢ - mᵢ)², c = 1, 4, 9."""
LIMITS = torch.tensor([1.0, 5.0, 2.0], dtype=torch.float64)
CURVATURE = torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64)


def steps(optimiser: VectorOptimiser, count: int, edits: Sequence[int]) -> list[Tensor]:
    """Make steps on the objectives of some edits; return the candidates of each step."""
    points = []
    for _ in range(count):
        candidates = optimiser.candidates.clone()
        points.append(candidates)
        moved = candidates - CENTRES[list(edits)].unsqueeze(1)
        objectives = (CURVATURE * moved.square()).sum(dim=2)
        best = objectives.argmin(dim=1)
        gradients = (2 * CURVATURE * moved)[torch.arange(len(edits)), best]
        optimiser.step(objectives.tolist(), gradients)
    return points


def started(name: str, edits: Sequence[int] = (0, 1, 2), limited: bool = True) -> VectorOptimiser:
    starts = torch.zeros(len(edits), 3, dtype=torch.float64)
    return make_optimiser(name, starts, 0.3, LIMITS[list(edits)] if limited else None)


@pytest.mark.parametrize("name", [ADAM, LBFGS])
def test_a_vector_takes_the_same_steps_alone_and_after_others_have_left(name: str) -> None:
    optimiser = started(name)
    several = steps(optimiser, 4, (0, 1, 2))
    optimiser.keep([0, 2])
    several += steps(optimiser, 6, (0, 2))
    alone = steps(started(name, [2]), 10, (2,))
    for one, all_of_them in zip(alone, several, strict=True):
        torch.testing.assert_close(one[0], all_of_them[-1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [ADAM, LBFGS])
def test_no_candidate_leaves_its_ball(name: str) -> None:
    for candidates in steps(started(name), 40, (0, 1, 2)):
        assert (candidates.norm(dim=2) <= LIMITS.unsqueeze(1) * (1 + 1e-12)).all()


def test_adam_equals_torchs_adam_with_the_norm_scaled_down_after_each_step() -> None:
    points = steps(started(ADAM), 12, (0, 1, 2))
    vectors = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([vectors], lr=0.3)
    for expected in points:
        torch.testing.assert_close(expected[:, 0], vectors.detach(), rtol=1e-12, atol=1e-12)
        vectors.grad = 2 * CURVATURE * (vectors.detach() - CENTRES)
        optimiser.step()
        with torch.no_grad():
            for vector, limit in zip(vectors, LIMITS, strict=True):
                if vector.norm() > limit:
                    vector *= limit / vector.norm()


def test_limited_memory_bfgs_finds_a_minimum_in_fewer_steps_than_adam() -> None:
    def needed(name: str) -> int:
        points = steps(started(name, limited=False), 200, (0, 1, 2))
        return next(n for n, at in enumerate(points) if (at[:, 0] - CENTRES).abs().max() < 1e-3)

    assert needed(LBFGS) < needed(ADAM) / 4
