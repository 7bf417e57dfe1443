"""Limited-memory BFGS trains GRACE's values in fewer steps than Adam."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from easyedit_lifelong import apply_grace_to_model
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.grace.training.optimise import TrainedValue
from tests.support.tiny_models import build_model
from tests.support.trained_values import REQUESTS, hparams, trained_values


def outcomes_of(tokenizer: Any, **settings: Any) -> list[TrainedValue]:
    """Edit a tiny model with three requests; return the trained values."""
    return trained_values(build_model("llama"), tokenizer, hparams(**settings))


@pytest.mark.parametrize("batch", [1, 16])
def test_values_are_learned_in_fewer_steps_than_by_adam(tokenizer: Any, batch: int) -> None:
    adam = outcomes_of(tokenizer, train_batch=batch)
    lbfgs = outcomes_of(tokenizer, train_batch=batch, optimizer="lbfgs")
    assert all(result.learned and result.loss <= 0.05 for result in lbfgs)
    assert sum(result.steps for result in lbfgs) < sum(result.steps for result in adam) / 2


def test_a_batch_gives_the_values_of_single_edits(tokenizer: Any) -> None:
    single = outcomes_of(tokenizer, train_batch=1, optimizer="lbfgs")
    batch = outcomes_of(tokenizer, train_batch=16, optimizer="lbfgs")
    assert [result.steps for result in single] == [result.steps for result in batch]
    for one, other in zip(single, batch, strict=True):
        torch.testing.assert_close(one.value, other.value, rtol=1e-3, atol=1e-3)


def test_without_early_stop_the_best_value_is_the_result(tokenizer: Any) -> None:
    results = outcomes_of(tokenizer, optimizer="lbfgs", reg=None, n_iter=25)
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
