"""The output projection of a block's attention is found by its shape and order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    GPTNeoConfig,
    GPTNeoXConfig,
    MptConfig,
    OPTConfig,
    Phi3Config,
)

from easyedit_lifelong.models.anatomy import anatomy_of, attention_output_of
from tests.support.tiny_models import build_model

EXPECTED = {"gpt2": "attn.c_proj", "gptj": "attn.out_proj"}
_SHAPE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def test_it_is_found_in_every_family(family: str) -> None:
    anatomy = anatomy_of(build_model(family))
    assert anatomy is not None
    assert attention_output_of(anatomy.blocks[0], 32) == EXPECTED.get(family, "self_attn.o_proj")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (BloomConfig(hidden_size=32, n_layer=2, n_head=4), "self_attention.dense"),
        (FalconConfig(**_SHAPE), "self_attention.dense"),
        (
            GPTNeoConfig(hidden_size=32, num_layers=2, attention_types=[[["global"], 2]], num_heads=4),
            "attn.attention.out_proj",
        ),
        (GPTNeoXConfig(**_SHAPE, intermediate_size=64), "attention.dense"),
        (MptConfig(d_model=32, n_layers=2, n_heads=4), "attn.out_proj"),
        (OPTConfig(**_SHAPE, ffn_dim=64, word_embed_proj_dim=32), "self_attn.out_proj"),
        (Phi3Config(**_SHAPE, intermediate_size=64, pad_token_id=0), "self_attn.o_proj"),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_it_is_found_in_other_families(config: Any, expected: str) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    anatomy = anatomy_of(model)
    assert anatomy is not None
    assert attention_output_of(anatomy.blocks[0], 32) == expected


def test_a_block_without_attention_has_none() -> None:
    assert attention_output_of(nn.ModuleDict({"mlp": nn.Linear(4, 4), "attn_norm": nn.LayerNorm(4)}), 4) is None
