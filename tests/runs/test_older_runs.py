"""A run that is older than a hyperparameter can be resumed: it had the default value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong import NativeMemitHyperParams
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.hparams_files import hparams_defaults, hparams_values
from easyedit_lifelong.runs.run_folder import SCHEMA_VERSION, RunFolder


def config_with(**hparams: Any) -> dict[str, Any]:
    return {"schema_version": SCHEMA_VERSION, "method": "X", "hparams": {"eps": 1.0, **hparams}}


def test_a_missing_hyperparameter_had_its_default_value(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_config(config_with())
    folder.close()
    with pytest.raises(RunError, match=r"hparams\.seed was 1, is 0"):
        RunFolder.reopen(tmp_path, config_with(seed=0), {"eps": 5.0, "seed": 1})
    RunFolder.reopen(tmp_path, config_with(seed=0), {"eps": 5.0, "seed": 0}).close()


def test_defaults_are_those_of_all_hyperparameters_that_a_file_may_leave_out() -> None:
    hparams = NativeMemitHyperParams(model_name="tiny", layers=[1], rewrite_module_tmp="a.{}", layer_module_tmp="b.{}")
    values, defaults = hparams_values(hparams), hparams_defaults(hparams)
    assert values.keys() - defaults.keys() == {"model_name", "layers", "rewrite_module_tmp", "layer_module_tmp"}
    assert all(values[name] == default for name, default in defaults.items() if name != "alg_name")
    assert defaults["blue"] is False
    assert defaults["context_template_length_params"] == [[10, 5]]
