"""Evaluation mode and dropout for a while, and everything as it was after."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from easyedit_lifelong.models.modes import dropping_out, evaluating


@pytest.fixture
def mixed() -> nn.Sequential:
    """A model in training mode with one part in evaluation mode, as fine-tuning scripts make them."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.25))).train()
    model[2].eval()
    return model


def _modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def test_every_module_is_in_evaluation_mode_inside_and_restored_after(mixed: nn.Sequential) -> None:
    before = _modes(mixed)
    assert True in before
    assert False in before
    with evaluating(mixed):
        assert not any(_modes(mixed))
    assert _modes(mixed) == before


def test_modes_are_restored_after_an_exception(mixed: nn.Sequential) -> None:
    before = _modes(mixed)
    with pytest.raises(RuntimeError, match="boom"), evaluating(mixed):
        raise RuntimeError("boom")
    assert _modes(mixed) == before


def test_dropout_is_active_only_inside_the_context(mixed: nn.Sequential) -> None:
    mixed.eval()
    ones = torch.ones(1, 1000)
    with dropping_out([mixed], 0.9, "seed"):
        assert 0 < (mixed[1](ones) == 0).sum() < 1000
        assert (mixed[2](ones) == 0).sum() > 500
    assert torch.equal(mixed[1](ones), ones)
    assert (mixed[1].p, mixed[2][0].p) == (0.5, 0.25)
    assert not any(_modes(mixed))


def test_dropout_rates_and_modes_are_restored_after_an_exception(mixed: nn.Sequential) -> None:
    before = _modes(mixed)
    with pytest.raises(RuntimeError, match="boom"), dropping_out([mixed], 0.9, "seed"):
        raise RuntimeError("boom")
    assert _modes(mixed) == before
    assert (mixed[1].p, mixed[2][0].p) == (0.5, 0.25)


def test_a_dropout_rate_of_zero_changes_nothing(mixed: nn.Sequential) -> None:
    before = _modes(mixed)
    with dropping_out([mixed], 0, "seed"):
        assert _modes(mixed) == before
        assert mixed[1].p == 0.5
