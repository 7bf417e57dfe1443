"""The root mean square of a hook weight's change at ordinary text, by which z-scores are weighed."""

from __future__ import annotations

import pytest
import torch

from easyedit_lifelong.methods.coachhook.hook_layers import root_mean_square_change
from easyedit_lifelong.methods.locate_edit.update import AccumulatedKeys
from easyedit_lifelong.methods.weight_updates.layer_update import LayerUpdate
from tests.support.random_keys import random_keys, random_moment


def test_the_root_mean_square_change_is_updated_batch_by_batch() -> None:
    generator = torch.Generator().manual_seed(1)
    moment, delta, ordinary = random_moment(12, generator), None, None
    accumulated = AccumulatedKeys(moment, 10.0, dtype=torch.float64)
    for count in (3, 1, 5):
        keys, residual = random_keys(12, count, generator), random_keys(7, count, generator)
        update = LayerUpdate(keys, accumulated.solve(keys), residual)
        accumulated.add(keys)
        before = None if delta is None or ordinary is None else (delta, ordinary)
        delta, ordinary = update.added_to(delta), root_mean_square_change(moment, update, before)
        assert ordinary == pytest.approx(float((delta @ moment @ delta.t()).trace().sqrt()), rel=1e-9)
    text_keys = random_keys(12, 200_000, generator)  # their second moment is the identity
    measured = (delta @ text_keys).norm(dim=0).square().mean().sqrt()
    full_update = LayerUpdate(keys, torch.eye(12, dtype=torch.float64), delta)
    assert root_mean_square_change(torch.eye(12), full_update, None) == pytest.approx(float(measured), rel=1e-2)


def test_the_root_mean_square_of_no_change_is_not_zero() -> None:
    no_change = LayerUpdate(torch.zeros(12, 2), torch.zeros(12, 2), torch.zeros(7, 2))
    assert root_mean_square_change(torch.eye(12), no_change, None) > 0
