"""The MLP of a block is found by the shapes of its projections."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.falcon import FalconConfig
from transformers.models.gpt_neox import GPTNeoXConfig
from transformers.models.mixtral import MixtralConfig

from easyedit_lifelong.models.anatomy import anatomy_of, mlp_of
from tests.support.tiny_models import build_model

EXPECTED = {
    "gpt2": (("mlp.c_fc",), "mlp.c_proj"),
    "gptj": (("mlp.fc_in",), "mlp.fc_out"),
    "llama": (("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"),
    "qwen2": (("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"),
    "mistral": (("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"),
    "gemma2": (("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"),
}


def test_every_familys_mlp_projections_are_found(family: str) -> None:
    anatomy = anatomy_of(build_model(family))
    assert anatomy is not None
    for block in anatomy.blocks:
        mlp = mlp_of(block)
        assert mlp is not None
        assert (mlp.inputs, mlp.output) == EXPECTED[family]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            GPTNeoXConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4),
            "mlp.dense_4h_to_h",
        ),
        (FalconConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4), "mlp.dense_4h_to_h"),
    ],
)
def test_the_output_projection_of_other_families_is_found(config: object, expected: str) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    anatomy = anatomy_of(model)
    assert anatomy is not None
    mlp = mlp_of(anatomy.blocks[0])
    assert mlp is not None
    assert mlp.output == expected


def test_a_mixture_of_experts_is_no_mlp() -> None:
    config = MixtralConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    anatomy = anatomy_of(model)
    assert anatomy is not None
    assert mlp_of(anatomy.blocks[0]) is None


def test_a_block_with_two_parallel_mlps_has_no_single_mlp() -> None:
    def make() -> nn.Module:
        return nn.ModuleDict({"up": nn.Linear(8, 32), "down": nn.Linear(32, 8)})

    assert mlp_of(make()) is not None
    assert mlp_of(nn.ModuleDict({"a": make(), "b": make()})) is None
