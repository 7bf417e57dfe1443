"""Sums of k kᵀ are exact to float32 rounding, and few keys are regularised."""

from __future__ import annotations

import pytest
import torch

from easyedit_lifelong.covariance import regularisation
from easyedit_lifelong.covariance.moments import MomentSum
from easyedit_lifelong.errors import CovarianceError


@pytest.mark.parametrize("d", [1, 7, 191, 192, 193, 400, 1600])
def test_the_sum_equals_a_float64_computation(d: int) -> None:
    generator = torch.Generator().manual_seed(d)
    keys = [torch.randn(n, d, generator=generator) for n in (5, 1, 40, 0)]
    total = MomentSum(d)
    for part in keys:
        total.add(part)
        total.flush()
    expected = torch.cat(keys).double()
    matrix = total.symmetric()
    assert total.count == 46
    assert torch.equal(matrix, matrix.t())
    torch.testing.assert_close(matrix, expected.t() @ expected, rtol=1e-5, atol=1e-4)


def test_keys_can_be_added_after_the_sum_was_read() -> None:
    keys = torch.randn(20, 300, generator=torch.Generator().manual_seed(0))
    total, unread = MomentSum(300), MomentSum(300)
    total.add(keys[:10])
    total.symmetric()
    total.add(keys[10:])
    unread.add(keys[:10])
    unread.flush()
    unread.add(keys[10:])
    assert torch.equal(total.symmetric(), unread.symmetric())


def test_many_small_keys_after_large_ones_are_not_lost() -> None:
    total = MomentSum(1)
    total.add(torch.tensor([[2.0**14]]))
    total.flush()
    for _ in range(64):
        total.add(torch.ones(1, 1))
        total.flush()
    assert float(total.symmetric()) == 2.0**28 + 64  # float32 alone would have stayed at 2**28


def test_half_precision_keys_are_multiplied_in_float32() -> None:
    keys = torch.full((4, 3), 300.0, dtype=torch.float16)
    total = MomentSum(3)
    total.add(keys)
    assert float(total.symmetric()[0, 0]) == 4 * 90000.0  # float16 can't hold it


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_keys_with_nan_or_infinity_are_refused(value: float) -> None:
    total = MomentSum(3)
    total.add(torch.tensor([[1.0, value, 2.0]]))
    with pytest.raises(CovarianceError, match="NaN or infinity"):
        total.flush()


def test_keys_of_another_size_are_refused() -> None:
    with pytest.raises(CovarianceError, match=r"\(2, 4\).*\(any, 3\)"):
        MomentSum(3).add(torch.ones(2, 4))


def test_regularisation_falls_to_zero_at_four_keys_per_dimension() -> None:
    assert regularisation(0, 100) == pytest.approx(0.01)
    assert regularisation(200, 100) == pytest.approx(0.005)
    assert regularisation(400, 100) == regularisation(10**9, 100) == 0.0
    shares = [regularisation(n, 100) for n in range(0, 500, 20)]
    assert shares == sorted(shares, reverse=True)


def test_regularisation_makes_moments_of_few_keys_invertible() -> None:
    keys = torch.randn(10, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moment = keys.t() @ keys / 10
    share = regularisation(10, 50)
    assert torch.linalg.matrix_rank(moment) == 10
    assert torch.linalg.matrix_rank(moment + share * moment.diagonal().mean() * torch.eye(50).double()) == 50
