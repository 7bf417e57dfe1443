"""Token-wise modules compute selected tokens only: those are unchanged, the others are 0."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from easyedit_lifelong.models.packing import computing_only, mlps_of, token_wise_modules
from easyedit_lifelong.models.runner import Runner
from tests.support.tiny_models import build_model, build_tokenizer

SELECTED = torch.tensor([[True, True, True, False], [True, False, False, False], [False, False, False, False]])


def block_of(family: str) -> nn.Module:
    anatomy = Runner(build_model(family), build_tokenizer()).anatomy
    assert anatomy is not None
    return anatomy.blocks[1]


def test_every_familys_mlp_and_projections_are_token_wise(family: str) -> None:
    block = block_of(family)
    parts = token_wise_modules(block)
    assert [type(part).__name__.endswith("MLP") for part in parts].count(True) == 1 == len(mlps_of(block))
    within = {id(weight) for part in parts for weight in part.parameters()}
    outside = [weight for weight in block.parameters() if id(weight) not in within]
    assert all(weight.dim() == 1 for weight in outside)  # norms


def test_selected_tokens_are_computed_as_usual_and_others_are_zero(family: str) -> None:
    for part in token_wise_modules(block_of(family)):
        width = next(w for w in part.parameters() if w.dim() == 2).shape
        hidden = torch.randn(3, 4, 32 if 32 in width else width[0], requires_grad=True)
        full = part(hidden)
        with computing_only([part, part], SELECTED):
            packed = part(hidden)
        torch.testing.assert_close(packed[SELECTED], full[SELECTED])
        assert (packed[~SELECTED] == 0).all()
        assert "forward" not in part.__dict__
        (grad,) = torch.autograd.grad(packed.square().sum(), hidden)
        (expected,) = torch.autograd.grad(full[SELECTED].square().sum(), hidden)
        torch.testing.assert_close(grad, expected)


def test_other_shapes_and_full_masks_are_computed_as_usual() -> None:
    layer = nn.Linear(4, 3)
    outputs: list[Any] = []
    with computing_only([layer], SELECTED):
        outputs.append(layer(torch.ones(2, 4, 4)))
        assert layer(torch.ones(3, 4, 2, 4)).shape == (3, 4, 2, 3)
    with computing_only([layer], torch.ones(3, 4, dtype=torch.bool)):
        assert "forward" not in layer.__dict__
        outputs.append(layer(torch.ones(2, 4, 4)))
    assert torch.equal(outputs[0], outputs[1])
    assert (outputs[0] == layer(torch.ones(4))).all()


@pytest.mark.parametrize("change", ["hook", "pre-hook", "forward"])
def test_modules_with_other_hooks_are_not_packed(change: str) -> None:
    block: Any = block_of("llama")
    down = block.mlp.down_proj
    if change == "hook":
        down.register_forward_hook(lambda *_: None)
    elif change == "pre-hook":
        down.register_forward_pre_hook(lambda *_: None)
    else:
        down.__dict__["forward"] = down.forward
    parts = token_wise_modules(block)
    assert block.mlp not in parts
    assert down not in parts
    assert block.mlp.up_proj in parts


def test_only_modules_known_to_be_token_wise_are_packed() -> None:
    class Shifted(nn.Linear):
        pass

    class MixingMLP(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.shift = nn.Linear(4, 8), nn.ZeroPad2d((0, 0, 1, -1))

    block = MixingMLP()
    assert token_wise_modules(block) == [block.up]
    assert token_wise_modules(nn.Sequential(Shifted(2, 2), nn.LayerNorm(2))) == []
