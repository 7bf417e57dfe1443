"""The parts of a model are found from its module tree."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from easyedit_lifelong.models.anatomy import anatomy_of, projection_shape
from easyedit_lifelong.models.modules import find_module
from tests.support.tiny_models import FAMILIES, build_model

# family: (blocks, final norm, tied)
EXPECTED = {
    "gpt2": ("transformer.h", "transformer.ln_f", True),
    "gptj": ("transformer.h", "transformer.ln_f", False),
    "llama": ("model.layers", "model.norm", False),
    "qwen2": ("model.layers", "model.norm", False),
    "mistral": ("model.layers", "model.norm", False),
    "gemma2": ("model.layers", "model.norm", True),
}


def test_every_familys_blocks_norm_head_and_tying_are_found(family: str) -> None:
    model = build_model(family)
    blocks, norm, tied = EXPECTED[family]
    anatomy = anatomy_of(model)
    assert anatomy is not None
    assert anatomy.blocks_path == blocks
    assert anatomy.blocks is model.get_submodule(blocks)
    assert len(anatomy.blocks) == 4
    assert anatomy.final_norm is model.get_submodule(norm)
    assert anatomy.head is model.lm_head
    assert anatomy.tied is tied


def test_an_edited_layer_is_assigned_to_its_block(family: str) -> None:
    model = build_model(family)
    anatomy = anatomy_of(model)
    path, layer = find_module(model, FAMILIES[family][1])
    assert anatomy is not None
    assert anatomy.block_of(path) == 2
    assert layer in list(anatomy.blocks[2].modules())


def test_a_module_outside_the_blocks_has_no_block_number(llama: nn.Module) -> None:
    anatomy = anatomy_of(llama)
    assert anatomy is not None
    for path in ("lm_head", "model.norm", "model.layers", "model.layersx.2.mlp", ""):
        assert anatomy.block_of(path) is None
    assert anatomy.block_of("model.layers.3") == 3


def test_block_numbers_of_two_digits_are_read_in_full() -> None:
    config = type(FAMILIES["llama"][0])(**{**FAMILIES["llama"][0].to_dict(), "num_hidden_layers": 12})
    with torch.device("meta"):
        anatomy = anatomy_of(AutoModelForCausalLM.from_config(config))
    assert anatomy is not None
    assert anatomy.block_of("model.layers.11.mlp.down_proj") == 11
    assert anatomy.block_of("model.layers.1.mlp.down_proj") == 1


class UnknownArchitecture(nn.Module):
    """A stack of blocks under an unknown name, with a longer list of experts in each block, and two other lists."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.adapters = nn.ModuleList([nn.Linear(99, 99) for _ in range(2)])
        self.trunk = nn.Module()
        self.trunk.cells = nn.ModuleList([self._block() for _ in range(depth)])
        self.trunk.out_rmsnorm = nn.LayerNorm(4)
        self.mixed = nn.ModuleList([nn.Linear(4, 4), nn.LayerNorm(4)])
        self.config = type("Config", (), {"num_hidden_layers": depth})()

    @staticmethod
    def _block() -> nn.Module:
        block = nn.Module()
        block.experts = nn.ModuleList([nn.Linear(4, 4) for _ in range(8)])
        return block


def test_the_blocks_of_an_unknown_architecture_are_found_among_other_lists() -> None:
    model = UnknownArchitecture()
    anatomy = anatomy_of(model)
    assert anatomy is not None
    assert anatomy.blocks_path == "trunk.cells"
    assert anatomy.final_norm is model.trunk.out_rmsnorm
    assert anatomy.head is None
    assert anatomy.tied is False


def test_a_model_without_blocks_has_no_anatomy() -> None:
    assert anatomy_of(nn.Sequential(nn.Linear(2, 2), nn.Tanh())) is None


@pytest.mark.parametrize("layer", [nn.Linear(3, 5), Conv1D(5, 3)])
def test_linear_and_conv1d_projections_have_the_same_shape(layer: nn.Module) -> None:
    assert projection_shape(layer) == (3, 5)
    assert layer(torch.zeros(1, 3)).shape == (1, 5)


@pytest.mark.parametrize(
    ("name", "layer", "shape"),
    [
        ("gpt2", "transformer.h[2].mlp.c_fc", (32, 128)),
        ("gpt2", "transformer.h[2].mlp.c_proj", (128, 32)),
        ("gptj", "transformer.h[2].mlp.fc_out", (128, 32)),
        ("llama", "model.layers[2].mlp.down_proj", (48, 32)),
        ("gemma2", "model.layers[2].mlp.up_proj", (32, 48)),
    ],
)
def test_projections_of_each_family_have_their_input_and_output_size(
    name: str, layer: str, shape: tuple[int, int]
) -> None:
    assert projection_shape(find_module(build_model(name), layer)[1]) == shape


@pytest.mark.parametrize("module", [nn.LayerNorm(3), nn.Tanh(), nn.Conv2d(1, 1, 1)])
def test_a_module_that_is_no_projection_is_refused_by_its_type(module: nn.Module) -> None:
    with pytest.raises(TypeError, match=type(module).__name__):
        projection_shape(module)
