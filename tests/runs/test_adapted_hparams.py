"""Hyperparameters for another model: its modules and size, and layers at the same relative depth."""

from __future__ import annotations

from typing import Any

import pytest

from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.hparams_files import find_hparams, read_hparams_file
from easyedit_lifelong.models.modules import module_path
from easyedit_lifelong.runs.adapted_hparams import adapted_hparams
from easyedit_lifelong.runs.hyperparameter_files import find_method, make_hparams
from tests.support.tiny_models import build_model, build_tokenizer, smollm2_without_weights


def adapted(file: str, family: str) -> tuple[Any, dict[str, Any]]:
    model = build_model(family)
    return model, adapted_hparams(read_hparams_file(find_hparams(file)), model, "calibrate")


@pytest.mark.parametrize("family", ["llama", "gpt2", "gptj", "gemma2"])
@pytest.mark.parametrize(
    "file",
    ["CoachHook/smollm2-135m-codebook", "MEMIT-native/smollm2-135m", "UltraEdit/smollm2-135m", "GRACE/smollm2-135m"],
)
def test_a_shipped_file_fits_another_model_after_adapting(file: str, family: str) -> None:
    model, values = adapted(file, family)
    hparams = make_hparams(values, "adapted")
    check = find_method(hparams).check
    assert check is not None
    check(model, build_tokenizer(), hparams)


@pytest.mark.parametrize("file", ["MEMIT-native/smollm2-135m", "CoachHook/smollm2-135m-codebook"])
def test_layers_keep_their_relative_depth(file: str) -> None:
    given = read_hparams_file(find_hparams(file))
    same_depth = adapted_hparams(given, smollm2_without_weights(), "calibrate")
    assert same_depth["layers"] == given["layers"]
    assert module_path(same_depth.get("scope_layer", "")) == module_path(given.get("scope_layer", ""))
    _, values = adapted(file, "llama")  # the tiny model has 4 blocks, SmolLM2 has 30
    assert values["layers"] == [0, 1, 2, 3]
    assert values["v_loss_layer"] == 3


def test_values_that_do_not_depend_on_the_model_stay() -> None:
    _, values = adapted("CoachHook/smollm2-135m-codebook", "llama")
    assert values["mom2_update_weight"] == 1000 and values["scope_score"] == "codebook"
    assert values["scope_layer"] == "model.layers.0.mlp.gate_proj"
    assert values["mom2_n_tokens"] != 15360


def test_a_model_without_known_blocks_is_refused() -> None:
    model = build_model("llama").model.embed_tokens
    with pytest.raises(ModelError, match="calibrate can't name the modules"):
        adapted_hparams({"layers": [1]}, model, "calibrate")
