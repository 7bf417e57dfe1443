"""Limited-memory BFGS trains GRACE's values in fewer steps than Adam."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from easyedit_lifelong import GraceHyperParams, apply_grace_to_model
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.grace.training import optimise
from tests.support.tiny_models import build_model


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

    monkeypatch.setattr("easyedit_lifelong.methods.grace.training.train_batch.train_and_check", recording)
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
