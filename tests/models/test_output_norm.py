"""The norm between an MLP and the residual stream: which models have one, and how a change passes through it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.gemma3 import Gemma3TextConfig
from transformers.models.granite import GraniteConfig
from transformers.models.olmo2 import Olmo2Config

from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.models.anatomy import mlp_of
from easyedit_lifelong.models.output_norm import OutputNorm, OutputScale, find_output_map, find_output_norm
from easyedit_lifelong.models.runner import Runner
from tests.support.tiny_models import FAMILIES, build_model, build_tokenizer

SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
}


def _parts(model: Any, number: int) -> tuple[Runner, nn.Module, nn.Module]:
    runner = Runner(model, build_tokenizer())
    assert runner.anatomy is not None
    block = runner.anatomy.blocks[number]
    mlp = mlp_of(block)
    assert mlp is not None
    return runner, block, block.get_submodule(mlp.output)


def _found(model: Any, number: int) -> OutputNorm | None:
    return find_output_norm(*_parts(model, number))


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "gemma2"])
def test_most_families_add_the_output_of_the_mlp_as_it_is(family: str) -> None:
    assert _found(build_model(family), 1) is None


@pytest.mark.parametrize(
    "config", [Gemma3TextConfig(**SHAPE), Olmo2Config(**SHAPE)], ids=lambda config: config.model_type
)
def test_the_norm_after_the_mlp_is_found(config: Any) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).double().eval()
    norm = model.model.layers[1].post_feedforward_layernorm
    nn.init.normal_(norm.weight)
    found = _found(model, 1)
    assert found is not None
    m = torch.randn(5, 32, dtype=torch.float64)
    for scale in (1.0, 1e-3):  # at 1e-3, the number that the norm adds to the mean square counts
        torch.testing.assert_close(found(scale * m), norm(scale * m).detach(), rtol=1e-6, atol=1e-7)


def test_the_norm_is_found_behind_dropout() -> None:
    model = build_model("gemma2")
    block = model.model.layers[1]
    expected = _found(model, 1)
    block.mlp_dropout, norm = nn.Dropout().eval(), block.post_feedforward_layernorm
    norm.register_forward_pre_hook(lambda _, args: (block.mlp_dropout(args[0]),))
    found = _found(model, 1)
    assert found is not None and expected is not None
    assert torch.equal(found.gain, expected.gain)


def _map(model: Any) -> OutputNorm | OutputScale | None:
    return find_output_map(*_parts(model, 1))


@pytest.mark.parametrize("family", FAMILIES)
def test_only_a_block_that_changes_its_mlps_output_has_a_map(family: str) -> None:
    found = _map(build_model(family))
    assert isinstance(found, OutputNorm) if family == "gemma2" else found is None


def test_the_scale_of_a_block_is_measured() -> None:
    model = AutoModelForCausalLM.from_config(GraniteConfig(**SHAPE, residual_multiplier=0.22)).eval()
    assert _found(model, 1) is None
    found = _map(model)
    assert isinstance(found, OutputScale)
    assert found.factor == pytest.approx(0.22, rel=1e-4)
    assert found.change_before(torch.zeros(1), torch.ones(1)).item() == pytest.approx(1 / 0.22, rel=1e-4)


def test_a_layer_norm_after_the_mlp_is_refused() -> None:
    model = build_model("gemma2")
    model.model.layers[1].post_feedforward_layernorm = nn.LayerNorm(32)
    with pytest.raises(ModelError, match="through a LayerNorm, which is no RMS norm"):
        _found(model, 1)


def test_a_change_within_reach_passes_through_the_norm() -> None:
    torch.manual_seed(0)
    norm = OutputNorm(torch.rand(32, dtype=torch.float64) + 0.5)
    m, reachable = torch.randn(2, 6, 32, dtype=torch.float64)
    change = norm(reachable) - norm(m)
    reached = norm(m + norm.change_before(m, change))
    cosine = torch.cosine_similarity(reached, norm(reachable), dim=1)
    assert (cosine > 0.999).all(), "up to the damping, which is small for gains of one size"


def test_a_small_change_is_the_damped_least_squares_solution() -> None:
    """With gains of one size, Δ minimises |J Δ - r|² for the Jacobian J, if r is in its range."""
    torch.manual_seed(0)
    norm = OutputNorm(torch.full((16,), 3.0, dtype=torch.float64), eps=1e-6)
    m = torch.randn(1, 16, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(norm, m)[0, :, 0]
    r = 1e-6 * torch.randn(16, dtype=torch.float64) @ jacobian.t()
    reached = norm(m + norm.change_before(m, r.unsqueeze(0))) - norm(m)
    torch.testing.assert_close(reached[0], r, rtol=0.02, atol=1e-9)


def test_a_dimension_without_gain_is_left_alone() -> None:
    gain = torch.ones(8, dtype=torch.float64)
    gain[3] = 0
    norm, m = OutputNorm(gain), torch.arange(1.0, 9.0).double().unsqueeze(0)
    change = torch.zeros(1, 8, dtype=torch.float64)
    change[0, 3] = 100.0
    torch.testing.assert_close(norm.change_before(m, change), torch.zeros_like(m))
