"""Limited-memory BFGS equals the textbook's matrix, and trains GRACE's values in fewer steps than Adam."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from easyedit_lifelong import GraceHyperParams, apply_grace_to_model
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.grace.training import optimise
from easyedit_lifelong.methods.grace.training.quasi_newton import QuasiNewtonSearch, lowest
from tests.support.tiny_models import build_model

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


def hparams(**settings: Any) -> GraceHyperParams:
    values = {"inner_params": ["model.layers[1].mlp.down_proj.weight"], "edit_lr": 0.5, "n_iter": 60, **settings}
    return GraceHyperParams(model_name="tiny", device="cpu", **values)


def outcomes_of(monkeypatch: pytest.MonkeyPatch, tokenizer: Any, **settings: Any) -> list[optimise.TrainedValue]:
    """Edit a tiny model with three requests; return the trained values."""
    results: list[optimise.TrainedValue] = []
    train = optimise.train_values

    def recording(*arguments: Any) -> list[optimise.TrainedValue]:
        results.extend(trained := train(*arguments))
        return trained

    monkeypatch.setattr("easyedit_lifelong.methods.grace.training.train_batch.train_values", recording)
    apply_grace_to_model(build_model("llama"), tokenizer, REQUESTS, hparams(**settings))
    return results


REQUESTS = [
    EditRequest(case_id=0, prompt="the red fox", target_new="river"),
    EditRequest(case_id=1, prompt="the sea is", target_new="red"),
    EditRequest(case_id=2, prompt="a blue bird", target_new="stone"),
]


@pytest.mark.parametrize("batch", [1, 16])
def test_values_are_learned_in_fewer_steps_than_by_adam(
    monkeypatch: pytest.MonkeyPatch, tokenizer: Any, batch: int
) -> None:
    adam = outcomes_of(monkeypatch, tokenizer, train_batch=batch)
    lbfgs = outcomes_of(monkeypatch, tokenizer, train_batch=batch, optimizer="lbfgs")
    assert all(result.learned and result.loss <= 0.05 for result in lbfgs)
    assert sum(result.steps for result in lbfgs) < sum(result.steps for result in adam) / 2


def test_a_batch_gives_the_values_of_single_edits(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    single = outcomes_of(monkeypatch, tokenizer, train_batch=1, optimizer="lbfgs")
    batch = outcomes_of(monkeypatch, tokenizer, train_batch=16, optimizer="lbfgs")
    assert [result.steps for result in single] == [result.steps for result in batch]
    for one, other in zip(single, batch, strict=True):
        torch.testing.assert_close(one.value, other.value, rtol=1e-3, atol=1e-3)


def test_without_early_stop_the_best_value_is_the_result(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    results = outcomes_of(monkeypatch, tokenizer, optimizer="lbfgs", reg=None, n_iter=25)
    assert all(result.steps == 25 and result.learned and result.loss < 1e-2 for result in results)


def test_a_loss_that_is_nan_from_the_beginning_stops_the_edit(tokenizer: Any) -> None:
    model = build_model("llama")
    with torch.no_grad():
        model.lm_head.weight[0, 0] = torch.nan
    with pytest.raises(EditError, match="loss became nan after 0 steps"):
        apply_grace_to_model(model, tokenizer, REQUESTS[:1], hparams(optimizer="lbfgs"))


def test_dropout_needs_adam() -> None:
    with pytest.raises(Exception, match="dropout: needs optimizer: adam"):
        hparams(optimizer="lbfgs", dropout=0.1)
