"""The presets of the five methods, and settings that are refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from easyedit_lifelong import (
    FTEWCHyperParams,
    FTHyperParams,
    FTLHyperParams,
    FTRetrainHyperParams,
    HyperParameterError,
    LocFTBFHyperParams,
    get_plugins,
)
from easyedit_lifelong.methods.finetune.config import FineTuneHyperParams

EASYEDIT_FILE = Path(__file__).parents[3] / "hparams" / "FT" / "smollm2-135m.yaml"
PLACE: dict[str, Any] = {"model_name": "tiny", "layers": [1], "rewrite_module_tmp": "model.layers.{}.mlp.down_proj"}
PRESETS: dict[type[FineTuneHyperParams], dict[str, Any]] = {
    FTHyperParams: {"order": "depth-first", "num_steps": 100, "lr": 1e-2, "stop_when_correct": True},
    FTLHyperParams: {"num_steps": 25, "lr": 5e-4, "stop_loss": 1e-2, "norm_constraint": 5e-4, "norm": "linf"},
    FTEWCHyperParams: {"ewc_lambda": 0.1, "fisher_mem": 10, "num_steps": 100, "lr": 1e-2},
    FTRetrainHyperParams: {"retrain_frequency": 50, "retrain_epochs": 5, "num_steps": 100, "lr": 1e-2},
    LocFTBFHyperParams: {
        **{"order": "breadth-first", "num_steps": 25, "lr": 5e-4, "examples_per_step": 100, "shuffle": True},
        **{"with_history": True, "eos": True, "stop_loss": 1e-2, "stop_when_correct": False},
    },
}


@pytest.mark.parametrize("hparams_class", PRESETS)
def test_presets_have_the_values_of_the_papers(hparams_class: type[FineTuneHyperParams]) -> None:
    hparams = hparams_class(**PLACE)
    assert {name: getattr(hparams, name) for name in PRESETS[hparams_class]} == PRESETS[hparams_class]
    method = get_plugins().method_for(hparams)
    assert method is not None
    assert method.name == hparams_class.ALG_NAME


def test_only_the_method_that_is_named_after_it_uses_a_term() -> None:
    terms = {
        "norm_constraint": FTLHyperParams,
        "ewc_lambda": FTEWCHyperParams,
        "retrain_frequency": FTRetrainHyperParams,
    }
    for hparams_class in PRESETS:
        used = {name for name in terms if getattr(hparams_class(**PLACE), name)}
        assert used == {name for name, owner in terms.items() if owner is hparams_class}


def test_a_file_of_easyedits_ft_loads_under_the_name_of_a_method_of_this_package() -> None:
    values = yaml.safe_load(EASYEDIT_FILE.read_text(encoding="utf-8"))
    assert values["norm_constraint"] is False
    hparams = FTHyperParams.from_values({**values, "alg_name": "FT-native"}, "a test")
    assert (hparams.norm_constraint, hparams.lr, hparams.num_steps) == (None, 5e-4, 25)
    with pytest.raises(HyperParameterError, match="alg_name: 'FT' is another method; this class is for 'FT-native'"):
        FTHyperParams.from_values(values, "a test")


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ({"order": "sideways"}, "order: 'sideways' isn't one of depth-first, breadth-first"),
        ({"lr": 0}, "lr: 0.0 must be greater than 0"),
        ({"num_steps": 0}, "num_steps: 0 is less than 1"),
        ({"norm_constraint": 0}, "norm_constraint: 0.0 must be greater than 0"),
        ({"retrain_frequency": 0}, "retrain_frequency: 0 is less than 1"),
        ({"objective_optimization": "prompt_last"}, "objective_optimization: 'prompt_last' isn't one of target_new"),
        ({"layers": [2, 1]}, "layers: [2, 1] must be block numbers in ascending order"),
        ({"rewrite_module_tmp": "mlp"}, "rewrite_module_tmp: 'mlp' must contain {} exactly once"),
    ],
)
def test_invalid_settings_are_refused(setting: dict[str, Any], problem: str) -> None:
    with pytest.raises(HyperParameterError, match=re.escape(problem)):
        FTHyperParams(**{**PLACE, **setting})
