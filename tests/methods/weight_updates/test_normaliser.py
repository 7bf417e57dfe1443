"""The normaliser, the least squares and the value changes, against their definitions."""

from __future__ import annotations

import pytest
import torch

from easyedit_lifelong.methods.ultraedit.update import least_squares, value_changes
from easyedit_lifelong.methods.weight_updates.normaliser import Normaliser


def vectors(count: int, features: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return 3 + torch.randn(count, features, generator=generator, dtype=torch.float64) * torch.arange(1, features + 1)


@pytest.mark.parametrize("sizes", [(12,), (1, 11), (1, 1, 1, 9), (5, 7)])
def test_mean_and_standard_deviation_are_those_of_all_vectors_however_they_are_grouped(sizes: tuple[int, ...]) -> None:
    rows = vectors(12, 5)
    normaliser = Normaliser.empty(5)
    for part in rows.split(sizes):
        normaliser = normaliser.updated(part)
    assert normaliser.count == 12
    torch.testing.assert_close(normaliser.mean, rows.mean(dim=0), rtol=1e-12, atol=0)
    torch.testing.assert_close(normaliser.std, rows.std(dim=0), rtol=1e-12, atol=0)
    normalised = normaliser.normalise(rows, 0.0)
    torch.testing.assert_close(normalised.std(dim=0), torch.ones(5, dtype=torch.float64))


def test_an_update_does_not_change_the_normaliser_that_it_started_from() -> None:
    first = Normaliser.empty(3).updated(vectors(4, 3))
    mean, squares = first.mean.clone(), first.squares.clone()
    first.updated(vectors(2, 3))
    assert torch.equal(first.mean, mean)
    assert torch.equal(first.squares, squares)
    assert first.count == 4


def test_a_constant_feature_stays_finite() -> None:
    rows = torch.full((3, 2), 5.0, dtype=torch.float64)
    assert Normaliser.empty(2).updated(rows).normalise(rows, 1e-7).eq(0).all()


@pytest.mark.parametrize("tokens", [1, 3, 6, 9])
def test_the_least_squares_are_those_of_the_definition(tokens: int) -> None:
    inputs = vectors(tokens, 6)
    expected = torch.linalg.inv(inputs.t() @ inputs + torch.eye(6, dtype=torch.float64)) @ inputs.t()
    torch.testing.assert_close(least_squares(inputs), expected, rtol=1e-9, atol=1e-12)


def test_the_value_changes_are_those_of_the_definition() -> None:
    inputs, gradients = vectors(4, 3), vectors(4, 5)[:, :2]
    normaliser = Normaliser.empty(5).updated(torch.cat([inputs, gradients], dim=1))
    values = value_changes(inputs, gradients, normaliser, 0.1, 0.0)
    for row in range(4):
        h = (inputs[row] - inputs.mean(dim=0)) / inputs.std(dim=0)
        g = (gradients[row] - gradients.mean(dim=0)) / gradients.std(dim=0)
        torch.testing.assert_close(values[row], -0.1 * h.square().sum() * g)


def test_a_single_vector_has_the_norm_that_vectors_have_on_average() -> None:
    inputs, gradients = vectors(1, 6), vectors(1, 4)
    normaliser = Normaliser.empty(10).updated(torch.cat([inputs, gradients], dim=1))
    (value,) = value_changes(inputs, gradients, normaliser, 0.1, 0.0)
    expected = -0.1 * 6 * gradients[0] / gradients[0].square().mean().sqrt()
    torch.testing.assert_close(value, expected)
