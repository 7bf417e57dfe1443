"""Updates in the weights: they go in, come out bitwise, and never half."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.locate_edit.edited_layers import EditedLayers
from easyedit_lifelong.methods.locate_edit.update import LayerUpdate

KINDS = {"linear": lambda: torch.nn.Linear(6, 4), "transposed": lambda: Conv1D(4, 6)}


def update(seed: int = 0, scale: float = 1.0) -> LayerUpdate:
    """An update of two edits, from 6 inputs to 4 outputs."""
    generator = torch.Generator().manual_seed(seed)
    keys, adjusted, residual = (torch.randn(size, 2, generator=generator) * scale for size in (6, 6, 4))
    return LayerUpdate(keys, adjusted, residual)


def layers_of(kind: str, dtype: torch.dtype = torch.float32) -> tuple[EditedLayers, Any]:
    torch.manual_seed(0)
    module = KINDS[kind]().to(dtype)
    return EditedLayers({"a": module}, "TEST"), module


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_changes_the_output_by_its_matrix(kind: str) -> None:
    layers, module = layers_of(kind, torch.float64)
    inputs, change = torch.randn(3, 6, dtype=torch.float64), update().matrix()
    before = module(inputs)
    layers.apply("a", update())
    torch.testing.assert_close(module(inputs), before + inputs @ change.t(), rtol=1e-5, atol=1e-6)
    assert torch.equal(layers.weights()["a"], module.weight)
    assert module.weight.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_updates_add_up_bitwise_as_they_were_applied(kind: str, dtype: torch.dtype) -> None:
    layers, module = layers_of(kind, dtype)
    tensor, before = layers.tensors()["a"], module.weight.detach().clone()
    for seed in range(3):
        layers.apply("a", update(seed))
        tensor = layers.with_update("a", tensor, update(seed))
        assert torch.equal(tensor.to(dtype), module.weight)
    assert module.weight.dtype == dtype
    layers.restore({"a": before})
    assert torch.equal(module.weight, before)
    assert torch.equal(layers.master_weight("a"), before)


def test_what_was_kept_is_not_changed_by_later_updates() -> None:
    layers, module = layers_of("linear")
    kept, before = layers.tensors()["a"], module.weight.detach().clone()
    layers.apply("a", update())
    assert kept is not None
    assert torch.equal(kept, before)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), 1e4])
def test_an_update_that_is_not_finite_leaves_the_weight(broken: float) -> None:
    layers, module = layers_of("linear", torch.float16)  # (1e4)² is finite in float32, and not in float16
    before = module.weight.detach().clone()
    with pytest.raises(EditError, match="the update of a isn't finite"):
        layers.apply("a", update(scale=broken))
    assert torch.equal(module.weight, before)


def test_the_unedited_weights_are_there_for_a_while() -> None:
    layers, module = layers_of("linear")
    unedited = layers.tensors()
    layers.apply("a", update())
    edited = module.weight.detach().clone()
    with contextlib.suppress(KeyboardInterrupt), layers.without_edits(unedited):
        assert torch.equal(module.weight, unedited["a"])
        raise KeyboardInterrupt
    assert torch.equal(module.weight, edited)


def test_weights_that_are_elsewhere_are_named() -> None:
    module = torch.nn.Linear(6, 4, device="meta")
    with pytest.raises(EditError, match="TEST writes updates into the weights, but those of b aren't in memory"):
        EditedLayers({"a": torch.nn.Linear(6, 4), "b": module}, "TEST").check_writable()
    EditedLayers({"a": torch.nn.Linear(6, 4)}, "TEST").check_writable()
