"""Limited-memory BFGS equals the textbook's matrix, finds minima, also within a ball, and never leaves the ball."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from easyedit_lifelong.methods.shared.quasi_newton import QuasiNewtonSearch, clamp_norms, lowest

SIZE = 6


def quadratic() -> tuple[Tensor, Tensor]:
    """A positive definite matrix A and the minimum x* of (x - x*)ᵀ A (x - x*) / 2, in float64."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)
    return root @ root.T + torch.eye(SIZE, dtype=torch.float64), torch.randn(
        SIZE, generator=generator, dtype=torch.float64
    )


def minimise(search: QuasiNewtonSearch, passes: int) -> list[float]:
    """Run a search on the quadratic function; return the value of its point after each pass."""
    matrix, minimum = quadratic()
    points = []
    for _ in range(passes):
        moved = search.candidates - minimum
        values = (0.5 * (moved @ matrix * moved).sum(dim=1)).tolist()
        search.update(values, matrix @ moved[lowest(values)])
        points.append(search.value)
    return points


@pytest.mark.parametrize("multiples", [(1.0,), (1.0, 2.0)])
def test_the_minimum_is_found_and_the_value_never_rises(multiples: tuple[float, ...]) -> None:
    search = QuasiNewtonSearch(torch.zeros(SIZE, dtype=torch.float64), 5.0, multiples)
    values = minimise(search, 60)
    assert values == sorted(values, reverse=True)
    torch.testing.assert_close(search.point, quadratic()[1], atol=1e-6, rtol=0)


def test_a_step_is_the_inverse_hessian_of_the_textbook_times_the_gradient() -> None:
    """The two-loop recursion equals the update H' = VᵀHV + r·ssᵀ, V = I - r·ysᵀ, r = 1/yᵀs, of the matrix."""
    search = QuasiNewtonSearch(torch.zeros(SIZE, dtype=torch.float64), 1e9, (1.0,))
    search._longest = 0.5  # of the first step, which has no curvature yet
    minimise(search, 1)
    search._longest = 1e9
    minimise(search, 4)
    pairs = search._pairs
    assert len(pairs) >= 3
    identity = torch.eye(SIZE, dtype=torch.float64)
    moved, change = pairs[-1]
    inverse = identity * (moved @ change) / (change @ change)
    for moved, change in pairs:
        r = 1 / (moved @ change)
        update = identity - r * torch.outer(change, moved)
        inverse = update.T @ inverse @ update + r * torch.outer(moved, moved)
    torch.testing.assert_close(search._step(), inverse @ search._gradient)


def test_steps_are_no_longer_than_the_longest_and_shrink_after_a_failure() -> None:
    search = QuasiNewtonSearch(torch.zeros(2), 8.0, (1.0, 2.0))
    assert search.candidates.tolist() == [[0.0, 0.0]]
    search.update([5.0], torch.tensor([0.0, 3.0]))
    torch.testing.assert_close(search.candidates, torch.tensor([[0.0, -4.0], [0.0, -8.0]]))
    search.update([math.nan, 6.0], torch.tensor([0.0, 1.0]))
    assert search.value == 5.0
    torch.testing.assert_close(search.candidates, torch.tensor([[0.0, -1.0], [0.0, -2.0]]))
    search.update([4.0, 4.5], torch.tensor([0.0, 2.999]))  # hardly curved: the quadratic's minimum is far away
    lengths = (search.candidates - search.point).norm(dim=1)
    torch.testing.assert_close(lengths, torch.tensor([8.0, 16.0]))


def test_a_step_along_which_the_function_does_not_curve_upwards_is_not_remembered() -> None:
    search = QuasiNewtonSearch(torch.zeros(2), 8.0, (1.0,))
    search.update([5.0], torch.tensor([0.0, 3.0]))
    search.update([1.0], torch.tensor([0.0, 4.0]))
    assert not search._pairs and search.value == 1.0


# ------------------------------------------------------------------ a largest norm


def minimum_within(limit: float) -> Tensor:
    """The minimum of the quadratic function on the ball: (A + μ I) x = A x*, with the μ at which ‖x‖ is the limit."""
    matrix, minimum = quadratic()
    low, high = 0.0, 1e6
    for _ in range(200):
        mu = (low + high) / 2
        point = torch.linalg.solve(matrix + mu * torch.eye(SIZE, dtype=torch.float64), matrix @ minimum)
        low, high = (mu, high) if point.norm() > limit else (low, mu)
    return point


@pytest.mark.parametrize("multiples", [(1.0,), (1.0, 2.0)])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_minimum_within_the_ball_is_found_without_leaving_it(share: float, multiples: tuple[float, ...]) -> None:
    matrix, minimum = quadratic()
    limit = share * minimum.norm()
    search = QuasiNewtonSearch(torch.zeros(SIZE, dtype=torch.float64), 5.0, multiples, limit)
    values = []
    for _ in range(200):
        assert (search.candidates.norm(dim=1) <= limit * (1 + 1e-12)).all()
        moved = search.candidates - minimum
        at_candidates = (0.5 * (moved @ matrix * moved).sum(dim=1)).tolist()
        search.update(at_candidates, matrix @ moved[lowest(at_candidates)])
        values.append(search.value)
    assert values == sorted(values, reverse=True)
    torch.testing.assert_close(search.point, minimum_within(float(limit)), atol=1e-4, rtol=0)


def test_a_limit_that_no_point_reaches_changes_nothing() -> None:
    free = QuasiNewtonSearch(torch.zeros(SIZE, dtype=torch.float64), 5.0, (1.0,))
    limited = QuasiNewtonSearch(torch.zeros(SIZE, dtype=torch.float64), 5.0, (1.0,), torch.tensor(1e6))
    assert minimise(free, 20) == minimise(limited, 20)
    assert torch.equal(free.point, limited.point)


def test_curvature_is_estimated_from_the_projected_points() -> None:
    search = QuasiNewtonSearch(torch.zeros(2), 8.0, (1.0,), torch.tensor(1.0))
    search.update([5.0], torch.tensor([0.0, 3.0]))
    assert search.candidates.tolist() == [[0.0, -1.0]]  # not -4
    search.update([4.0], torch.tensor([0.0, 2.0]))
    ((moved, change),) = search._pairs
    assert moved.tolist() == [0.0, -1.0]
    assert change.tolist() == [0.0, -1.0]


def test_where_the_projected_step_goes_uphill_a_step_along_the_gradient_is_taken() -> None:
    search = QuasiNewtonSearch(torch.tensor([0.0, -1.0]), 1.0, (1.0,), torch.tensor(1.0))
    search.point, search.value = search.candidates[0], 1.0
    search._gradient = torch.tensor([0.1, 1.0])
    # H turns the step to the other side of the gradient's tangential part.
    search._step = lambda: torch.tensor([-0.5, 0.9])  # type: ignore[method-assign]
    (candidate,) = search._next_candidates()
    torch.testing.assert_close(candidate.norm(), torch.tensor(1.0))
    assert candidate[0] < 0
    assert (candidate - search.point) @ search._gradient < 0


def test_norms_above_the_limits_are_scaled_down_and_infinite_ones_become_nan() -> None:
    vectors = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0], [3e38, 3e38]])
    clamped = clamp_norms(vectors, torch.tensor([1.0, 1.0, 1.0, 1.0]))
    torch.testing.assert_close(clamped[:3], torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))
    assert clamped[3].isnan().all()
    torch.testing.assert_close(clamp_norms(vectors[:2], torch.tensor(10.0)), vectors[:2], rtol=0, atol=0)
