"""Low-rank updates of a model's weights: applied, restored bitwise, and refused if not finite."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.weight_updates.edited_layers import EditedLayers
from easyedit_lifelong.methods.weight_updates.layer_update import LayerUpdate

PROJECTIONS = {"linear": lambda: torch.nn.Linear(6, 4), "transposed": lambda: Conv1D(4, 6)}


def update(seed: int = 0, scale: float = 1.0) -> LayerUpdate:
    """Return an update of two edits for a projection from 6 inputs to 4 outputs."""
    generator = torch.Generator().manual_seed(seed)
    keys, adjusted, residual = (torch.randn(size, 2, generator=generator) * scale for size in (6, 6, 4))
    return LayerUpdate(keys, adjusted, residual)


def layers_of(projection: str, dtype: torch.dtype = torch.float32) -> tuple[EditedLayers, Any]:
    torch.manual_seed(0)
    module = PROJECTIONS[projection]().to(dtype)
    return EditedLayers({"a": module}, "TEST"), module


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_an_update_changes_the_output_by_its_matrix(projection: str) -> None:
    layers, module = layers_of(projection, torch.float64)
    inputs, change = torch.randn(3, 6, dtype=torch.float64), update().matrix().double()
    before = module(inputs)
    layers.apply("a", update())
    torch.testing.assert_close(module(inputs), before + inputs @ change.t(), rtol=1e-5, atol=1e-6)
    assert torch.equal(layers.weights()["a"], module.weight)
    assert module.weight.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_updates_of_a_copied_weight_equal_those_in_place_and_are_restored_bitwise(
    projection: str, dtype: torch.dtype
) -> None:
    layers, module = layers_of(projection, dtype)
    tensor, before = layers.tensors()["a"], module.weight.detach().clone()
    for seed in range(3):
        layers.apply("a", update(seed))
        tensor = layers.with_update("a", tensor, update(seed))
        assert torch.equal(tensor.to(dtype), module.weight)
    assert module.weight.dtype == dtype
    layers.restore({"a": before})
    assert torch.equal(module.weight, before)
    assert torch.equal(layers.master_weight("a"), before)


def test_copied_weights_are_not_changed_by_later_updates() -> None:
    layers, module = layers_of("linear")
    copied, before = layers.tensors()["a"], module.weight.detach().clone()
    layers.apply("a", update())
    assert copied is not None
    assert torch.equal(copied, before)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 1e4])
def test_an_update_that_is_not_finite_in_the_weights_dtype_is_refused(scale: float) -> None:
    layers, module = layers_of("linear", torch.float16)  # (1e4)² is finite in float32, and not in float16
    before = module.weight.detach().clone()
    with pytest.raises(EditError, match="the update of a isn't finite"):
        layers.apply("a", update(scale=scale))
    assert torch.equal(module.weight, before)


def test_without_edits_restores_the_edited_weights_after_an_interruption() -> None:
    layers, module = layers_of("linear")
    unedited = layers.tensors()
    layers.apply("a", update())
    edited = module.weight.detach().clone()
    with contextlib.suppress(KeyboardInterrupt), layers.without_edits(unedited):
        assert torch.equal(module.weight, unedited["a"])
        raise KeyboardInterrupt
    assert torch.equal(module.weight, edited)


def test_weights_that_are_not_in_memory_are_refused_by_name() -> None:
    module = torch.nn.Linear(6, 4, device="meta")
    with pytest.raises(EditError, match="TEST writes updates into the weights, but those of b aren't in memory"):
        EditedLayers({"a": torch.nn.Linear(6, 4), "b": module}, "TEST").check_writable()
    EditedLayers({"a": torch.nn.Linear(6, 4)}, "TEST").check_writable()


def test_updates_below_the_precision_of_bfloat16_add_up() -> None:
    module = torch.nn.Linear(16, 16, bias=False, dtype=torch.bfloat16)
    layers = EditedLayers({"l": module}, "a test")
    before, unedited = layers.tensors(), module.weight.detach().clone()
    residual, adjusted = torch.full((16, 1), 1e-2), torch.full((16, 1), 1e-2)
    for _ in range(100):  # each is too small to change a bfloat16 weight of 0.1
        layers.apply("l", LayerUpdate(adjusted, adjusted, residual))
    torch.testing.assert_close(module.weight.detach(), (unedited.float() + 1e-2).to(torch.bfloat16))
    layers.restore(before)
    assert torch.equal(module.weight, unedited)


def test_a_weight_changed_from_outside_is_edited_from_its_new_value() -> None:
    module = torch.nn.Linear(2, 2, bias=False, dtype=torch.bfloat16)
    layers, update = EditedLayers({"l": module}, "a test"), LayerUpdate(*[torch.ones(2, 1)] * 3)
    layers.apply("l", update)
    module.weight.data.fill_(3)
    layers.apply("l", update)
    assert module.weight.unique().tolist() == [4]
