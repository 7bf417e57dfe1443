"""The main branch's GRACE, which has the same name as the GRACE of this package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

GRACE = {
    "alg_name": "GRACE",
    "inner_params": ["transformer.h[1].mlp.c_fc.weight"],
    "device": 0,
    "edit_lr": 1.0,
    "n_iter": 10,
    "eps": 1.0,
    "dist_fn": "euc",
    "val_init": "cold",
    "val_train": "sgd",
    "val_reg": None,
    "reg": "early_stop",
    "replacement": "replace_last",
    "eps_expand": "coverage",
    "num_pert": 8,
    "dropout": 0.0,
}


@pytest.mark.parametrize("sequential", [True, False])
def test_mains_hyperparameters_select_mains_grace(
    main: Any, save_model: Callable[[str], str], working_folder: Path, sequential: bool
) -> None:
    own = main.GraceHyperParams
    values = {k: v for k, v in GRACE.items() if k in own.__dataclass_fields__}
    editor = main.BaseEditor.from_hparams(own(model_name=save_model("gpt2"), **values))
    metrics, edited, _ = editor.edit(
        prompts=["The capital of France is"],
        target_new=["Rome"],
        ground_truth=["Paris"],
        sequential_edit=sequential,
        verbose=False,
    )
    assert type(edited).__module__.startswith("easyeditor.models.grace")
    assert "rewrite_acc" in metrics[0]["post"]
