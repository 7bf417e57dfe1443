"""A fingerprint changes with the weights and with nothing else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.models.fingerprint import model_fingerprint
from tests.support.tiny_models import build_model


def test_equal_weights_have_equal_fingerprints(family: str) -> None:
    model = build_model(family)
    fingerprint = model_fingerprint(model)
    assert len(fingerprint) == 64 and int(fingerprint, 16)
    assert model_fingerprint(copy.deepcopy(model)) == model_fingerprint(build_model(family)) == fingerprint


def test_a_change_of_any_single_value_changes_the_fingerprint() -> None:
    model = nn.Linear(300, 200)
    fingerprint = model_fingerprint(model)
    for index in (0, 1, 777, 59999):
        changed = copy.deepcopy(model)
        with torch.no_grad():
            value = changed.weight.view(-1)[index]
            changed.weight.view(-1)[index] = torch.nextafter(value, torch.tensor(10.0))
        assert model_fingerprint(changed) != fingerprint


def test_a_change_of_any_parameter_changes_the_fingerprint(llama: Any) -> None:
    fingerprint = model_fingerprint(llama)
    for _, parameter in llama.named_parameters():
        with torch.no_grad():
            before = parameter.flatten()[-1].clone()
            parameter.view(-1)[-1] += 1
            assert model_fingerprint(llama) != fingerprint
            parameter.view(-1)[-1] = before
    assert model_fingerprint(llama) == fingerprint


def test_reordered_values_change_the_fingerprint() -> None:
    model = nn.Linear(4, 4)
    fingerprint = model_fingerprint(model)
    with torch.no_grad():
        model.weight.copy_(model.weight.flip(0))
    assert model_fingerprint(model) != fingerprint


def test_name_shape_and_dtype_change_the_fingerprint() -> None:
    class Named(nn.Module):
        def __init__(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> None:
            super().__init__()
            self.register_parameter(name, nn.Parameter(torch.zeros(*shape, dtype=dtype)))

    models = [
        Named("a", 4),
        Named("b", 4),
        Named("a", 2, 2),
        Named("a", 4, dtype=torch.float64),
        Named("a", 4, dtype=torch.bfloat16),
        Named("a", 4, dtype=torch.float16),
        Named("a", 0),
    ]
    assert len({model_fingerprint(model) for model in models}) == len(models)


def test_memory_layout_and_training_mode_leave_the_fingerprint_unchanged() -> None:
    model = nn.Linear(6, 4)
    fingerprint = model_fingerprint(model)
    model.eval().requires_grad_(False)
    model.weight = nn.Parameter(model.weight.t().contiguous().t())
    assert model_fingerprint(model) == fingerprint


def test_a_model_without_weights_in_memory_has_no_fingerprint() -> None:
    with pytest.raises(ModelError, match="'weight' is not in memory"):
        model_fingerprint(nn.Linear(3, 3, bias=False, device="meta"))
    with pytest.raises(ModelError, match="no parameters"):
        model_fingerprint(nn.ReLU())
