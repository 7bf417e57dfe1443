"""Layer names of a hyperparameter file find their module or are refused."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.models.modules import find_module, module_path
from tests.support.tiny_models import FAMILIES, build_model


@pytest.mark.parametrize(
    "name",
    [
        "model.layers[2].mlp.down_proj.weight",
        "model.layers[2].mlp.down_proj",
        "model.layers.2.mlp.down_proj.weight",
        "model.layers.2.mlp.down_proj.bias",
        " model.layers.2.mlp.down_proj ",
    ],
)
def test_every_spelling_of_a_layer_name_finds_the_same_layer(llama: Any, name: str) -> None:
    path, module = find_module(llama, name)
    assert path == "model.layers.2.mlp.down_proj"
    assert module is llama.model.layers[2].mlp.down_proj


def test_every_familys_edited_layer_is_found(family: str) -> None:
    model = build_model(family)
    path, module = find_module(model, FAMILIES[family][1])
    assert model.get_submodule(path) is module


def test_a_name_with_two_brackets_becomes_a_path() -> None:
    assert module_path("blocks[3].experts[12].up.weight") == "blocks.3.experts.12.up"


def test_only_a_whole_last_word_is_a_parameter_name() -> None:
    assert module_path("model.counterweight") == "model.counterweight"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        # a misspelt layer: the message has its siblings and a suggestion
        (
            "model.layers[2].mlp.down_prj.weight",
            [
                "'model.layers.2.mlp' has no 'down_prj'; it has gate_proj, up_proj, down_proj",
                "Did you mean 'model.layers.2.mlp.down_proj'?",
            ],
        ),
        # a block number out of range
        ("model.layers[9].mlp.down_proj.weight", ["'model.layers' has 4 layers; valid numbers in this name: 0 to 3"]),
        # a block number out of range and a misspelt layer
        ("model.layers[9].mlp.down_prj", ["'model.layers' has no '9'; it has 0 to 3"]),
        # a name of another family
        ("transformer.h[2].mlp.c_fc.weight", ["'transformer'", "it has model, lm_head"]),
        # a name below a layer without submodules
        ("model.norm.scale.deep", ["'model.norm' has no 'scale'", "no layers inside"]),
    ],
)
def test_a_missing_layer_is_refused_with_what_the_model_has(llama: Any, name: str, parts: list[str]) -> None:
    with pytest.raises(ModelError) as caught:
        find_module(llama, name)
    message = str(caught.value)
    assert repr(name) in message
    for part in parts:
        assert part in message
    assert "\n" not in message


def test_a_number_out_of_range_gets_no_suggestion_by_spelling(llama: Any) -> None:
    with pytest.raises(ModelError) as caught:
        find_module(llama, "model.layers[9].mlp.down_proj")
    assert "Did you mean" not in str(caught.value)


def test_blocks_that_lack_a_layer_are_left_out_of_the_valid_numbers() -> None:
    """Hybrid models have attention in some blocks only."""
    blocks = [nn.ModuleDict({"attn": nn.Linear(2, 2)} if number % 2 == 0 else {}) for number in range(4)]
    model = nn.ModuleDict({"layers": nn.ModuleList(blocks)})
    with pytest.raises(ModelError, match=r"'layers' has 4 layers; valid numbers in this name: 0, 2\.$"):
        find_module(model, "layers[1].attn")


def test_an_error_about_the_root_does_not_quote_an_empty_path(llama: Any) -> None:
    """The path of the model itself is empty, so a message that quotes it would not help."""
    with pytest.raises(ModelError) as caught:
        find_module(llama, "transformer.h[2].mlp.c_fc.weight")
    assert "''" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "  ", ".weight"])
def test_an_empty_layer_name_is_refused(llama: Any, name: str) -> None:
    with pytest.raises(ModelError, match=r"names no layer\. Give the path of a module of LlamaForCausalLM"):
        find_module(llama, name)


def test_an_index_without_a_name_is_refused(llama: Any) -> None:
    with pytest.raises(ModelError, match="LlamaForCausalLM has no layer"):
        find_module(llama, "[2]")
