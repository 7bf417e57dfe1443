"""Hyperparameters are moved to other blocks of a model."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from torch import nn

from easyedit_lifelong.errors import HyperParameterError, ModelError
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.memit.config import NativeMemitHyperParams
from easyedit_lifelong.methods.shared.layer_moves import at_layer, centre_of, layer_count_stage, layer_stages
from easyedit_lifelong.methods.ultraedit.config import UltraEditHyperParams
from easyedit_lifelong.runs.hyperparameter_files import load_hparams
from tests.support.tiny_models import build_model, smollm2_without_weights

GRACE = GraceHyperParams(
    model_name="tiny", inner_params=["model.layers[2].mlp.down_proj.weight"], device="cpu", n_iter=10, eps=0.5
)


@pytest.fixture(scope="module")
def model() -> Any:
    return build_model("llama")


def memit_at(layers: list[int]) -> NativeMemitHyperParams:
    memit = load_hparams("MEMIT-native/smollm2-135m")
    assert isinstance(memit, NativeMemitHyperParams)
    return dataclasses.replace(memit, layers=layers)


def test_hyperparameters_are_moved_to_a_layer(model: Any) -> None:
    assert at_layer(GRACE, model, 3).inner_params == ["model.layers.3.mlp.down_proj"]
    memit = memit_at([1, 2, 3])
    assert [at_layer(memit, model, layer).layers for layer in (0, 2, 3)] == [[0, 1, 2], [1, 2, 3], [1, 2, 3]]
    with pytest.raises(ModelError, match="has no layer 4; its layers are 0 to 3"):
        at_layer(memit, model, 4)
    outside = GraceHyperParams(**{**GRACE.to_dict(), "inner_params": ["model.norm.weight"]})
    with pytest.raises(HyperParameterError, match="is in no block"):
        at_layer(outside, model, 1)
    with pytest.raises(ModelError, match="list of blocks isn't recognised"):
        at_layer(memit, nn.Linear(2, 2), 0)


def test_modules_of_several_blocks_keep_their_distances(model: Any) -> None:
    paths = ["model.layers.1.mlp.down_proj", "model.layers.2.mlp.gate_proj", "model.layers.2.mlp.down_proj"]
    hparams = UltraEditHyperParams(model_name="tiny", inner_params=paths)
    moved = ["model.layers.2.mlp.down_proj", "model.layers.3.mlp.gate_proj", "model.layers.3.mlp.down_proj"]
    assert at_layer(hparams, model, 3).inner_params == moved
    assert at_layer(hparams, model, centre_of(hparams, model)).inner_params == paths


@pytest.mark.parametrize("layers", [[2], [1, 2], [0, 1, 2], [1, 2, 3]])
def test_hyperparameters_stay_as_they_are_at_their_centre(model: Any, layers: list[int]) -> None:
    hparams = memit_at(layers)
    assert at_layer(hparams, model, centre_of(hparams, model)).layers == layers


def test_layers_are_tried_over_the_whole_depth_and_then_beside_the_best() -> None:
    model = smollm2_without_weights()
    spread, beside = layer_stages(None)
    assert spread.candidates(memit_at([5]), model) == [{"layers": [n]} for n in (2, 7, 12, 17, 22, 27)]
    assert beside.candidates(memit_at([10]), model) == [{"layers": [8]}, {"layers": [12]}]
    assert beside.candidates(memit_at([29]), model) == [{"layers": [27]}]


def test_the_number_of_layers_changes_below_the_same_last_one(model: Any) -> None:
    stage = layer_count_stage((1, 3, 5))
    assert stage.candidates(memit_at([1, 2]), model) == [{"layers": [2]}, {"layers": [0, 1, 2]}]
