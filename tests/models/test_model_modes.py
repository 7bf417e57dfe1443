"""Evaluation mode and dropout last for a context, and all modules are restored after it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from easyedit_lifelong.models.model_modes import dropping_out, evaluating


@pytest.fixture
def model() -> nn.Sequential:
    """A model in training mode with one part in evaluation mode, as fine-tuning scripts make them."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.25))).train()
    model[2].eval()
    return model


def _modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def test_every_module_is_in_evaluation_mode_inside_and_restored_after(model: nn.Sequential) -> None:
    before = _modes(model)
    assert True in before
    assert False in before
    with evaluating(model):
        assert not any(_modes(model))
    assert _modes(model) == before


def test_modes_are_restored_after_an_exception(model: nn.Sequential) -> None:
    before = _modes(model)
    with pytest.raises(RuntimeError, match="boom"), evaluating(model):
        raise RuntimeError("boom")
    assert _modes(model) == before


def test_dropout_is_active_only_inside_the_context(model: nn.Sequential) -> None:
    model.eval()
    ones = torch.ones(1, 1000)
    with dropping_out([model], 0.9, "seed"):
        assert 0 < (model[1](ones) == 0).sum() < 1000
        assert (model[2](ones) == 0).sum() > 500
    assert torch.equal(model[1](ones), ones)
    assert (model[1].p, model[2][0].p) == (0.5, 0.25)
    assert not any(_modes(model))


def test_dropout_rates_and_modes_are_restored_after_an_exception(model: nn.Sequential) -> None:
    before = _modes(model)
    with pytest.raises(RuntimeError, match="boom"), dropping_out([model], 0.9, "seed"):
        raise RuntimeError("boom")
    assert _modes(model) == before
    assert (model[1].p, model[2][0].p) == (0.5, 0.25)


def test_a_dropout_rate_of_zero_changes_nothing(model: nn.Sequential) -> None:
    before = _modes(model)
    with dropping_out([model], 0, "seed"):
        assert _modes(model) == before
        assert model[1].p == 0.5
