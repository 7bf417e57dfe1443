"""CoachHook's hyperparameters: files of EasyEdit's MEMIT load, and unusable values are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from easyedit_lifelong import CoachHookHyperParams
from easyedit_lifelong.errors import HyperParameterError
from tests.support.coachhook_edits import hparams_for

# EasyEdit's hparams/MEMIT/gpt2-xl.yaml (main branch), with another alg_name.
MEMIT: dict[str, Any] = {
    "alg_name": "CoachHook",
    "model_name": "./hugging_cache/gpt2-xl",
    "stats_dir": "./data/stats",
    "device": 0,
    "layers": [13, 14, 15, 16, 17],
    "clamp_norm_factor": 0.75,
    "layer_selection": "all",
    "fact_token": "subject_last",
    "v_num_grad_steps": 20,
    "v_lr": "5e-1",
    "v_loss_layer": 47,
    "v_weight_decay": 0.5,
    "kl_factor": 0.0625,
    "mom2_adjustment": True,
    "mom2_update_weight": 20000,
    "rewrite_module_tmp": "transformer.h.{}.mlp.c_proj",
    "layer_module_tmp": "transformer.h.{}",
    "mlp_module_tmp": "transformer.h.{}.mlp",
    "attn_module_tmp": "transformer.h.{}.attn",
    "ln_f_module": "transformer.ln_f",
    "lm_head_module": "transformer.wte",
    "mom2_dataset": "wikipedia",
    "mom2_n_samples": 100000,
    "mom2_dtype": "float32",
    "model_parallel": False,
}


def test_a_memit_file_of_easyedit_loads_with_coachhooks_defaults(tmp_path: Path) -> None:
    file = tmp_path / "gpt2-xl.yaml"
    file.write_text(yaml.safe_dump(MEMIT))
    hparams = CoachHookHyperParams.from_hparams(file)
    assert hparams.v_lr == 0.5
    assert hparams.edited_layers == [13, 14, 15, 16, 17]
    assert hparams.rewrite_modules[-1] == "transformer.h.17.mlp.c_proj"
    assert all(getattr(hparams, name) == value for name, value in MEMIT.items() if name != "v_lr")
    assert (hparams.alpha_z, hparams.num_layers, hparams.wohk, hparams.batch_size) == (2.2, None, False, 1)


def test_a_file_of_another_method_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "memit.yaml"
    file.write_text(yaml.safe_dump({**MEMIT, "alg_name": "MEMIT"}))
    with pytest.raises(HyperParameterError, match=r"memit.yaml: alg_name: 'MEMIT' is another method"):
        CoachHookHyperParams.from_hparams(file)


def test_an_unknown_key_is_named_with_the_nearest_known_one(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(yaml.safe_dump({**MEMIT, "alpha_s": 2, "num_layer": 3}))
    with pytest.raises(
        HyperParameterError, match=r"'alpha_s'. Did you mean 'alpha_z'.*'num_layer'. Did you mean 'num_layers'"
    ):
        CoachHookHyperParams.from_hparams(file)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layers", []),
        ("layers", [2, 1]),
        ("layers", [1, 1]),
        ("layers", [0, "two"]),
        ("layers", [[0], 1]),
        ("layers", 3),
        ("layers", [-1, 2]),
        ("num_layers", 0),
        ("num_layers", 4),
        ("num_layers", "two"),
        ("rewrite_module_tmp", "model.layers.2.mlp.down_proj"),
        ("layer_module_tmp", "model.{}.layers.{}"),
        ("rewrite_module_tmp", "model.layers.{0}.mlp.down_proj"),
        ("rewrite_module_tmp", "{}.{x}"),
        ("layer_selection", "random"),
        ("fact_token", "subject"),
        ("v_num_grad_steps", 0),
        ("v_lr", 0),
        ("v_lr", "fast"),
        ("v_loss_layer", -1),
        ("v_weight_decay", -0.1),
        ("v_stop_loss", -1),
        ("clamp_norm_factor", 0),
        ("kl_factor", -1),
        ("context_template_length_params", [10, 5]),
        ("context_template_length_params", [[10]]),
        ("context_template_length_params", [[10, 0]]),
        ("context_template_length_params", [["ten", 5]]),
        ("context_template_length_params", 10),
        ("mom2_adjustment", False),
        ("mom2_update_weight", 0),
        ("mom2_update_weight", -5),
        ("mom2_n_samples", 0),
        ("mom2_n_tokens", 0),
        ("mom2_n_samples", None),
        ("mom2_dtype", "bfloat16"),
        ("alpha_z", float("nan")),
        ("alpha_z", "high"),
        ("wohk", "maybe"),
        ("batch_size", 0),
        ("stats_dir", 3),
        ("alpha_checked", -1),
        ("alpha_checked", 5),
    ],
)
def test_an_unusable_value_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(HyperParameterError, match=rf"\b{name}: |mom2_n_tokens: give either"):
        hparams_for("llama", **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("context_template_length_params", []),
        ("num_layers", 3),
        ("v_loss_layer", None),
        ("kl_factor", 0),
        ("v_weight_decay", 0),
        ("alpha_z", 0),
        ("layers", [0]),
        ("layers", [0, 2]),
        ("v_num_grad_steps", 1),
        ("mom2_dtype", "float64"),
        ("stats_dir", None),
        ("mom2_n_tokens", 100),
    ],
)
def test_values_at_the_ends_of_their_range_are_accepted(name: str, value: Any) -> None:
    assert getattr(hparams_for("llama", **{name: value}), name) == value


def test_all_problems_are_reported_in_one_error() -> None:
    with pytest.raises(HyperParameterError, match=r"v_lr: .*; .*num_layers: .*rewrite_module_tmp: "):
        hparams_for("llama", v_lr=-1, num_layers=9, rewrite_module_tmp="x")


def test_num_layers_selects_the_last_of_the_layers() -> None:
    hparams = hparams_for("llama", num_layers=2)
    assert hparams.edited_layers == [1, 2]
    assert hparams.rewrite_modules == ["model.layers.1.mlp.down_proj", "model.layers.2.mlp.down_proj"]


def test_every_accepted_mom2_dtype_is_one_that_second_moments_can_have() -> None:
    # Otherwise the error comes only after second moments were collected, which can take an hour.
    from easyedit_lifelong.covariance.obtain import DTYPES

    for dtype in CoachHookHyperParams.CHOICES["mom2_dtype"]:
        assert dtype in DTYPES
