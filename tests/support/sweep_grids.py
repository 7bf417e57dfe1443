"""A folder with a grid and the files that it names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tests.support.command_line import FACTS, HPARAMS


def write_grid(folder: Path, checkpoint: Path | str, **values: Any) -> Path:
    """Write a grid of two methods, a model, a data set and two seeds; values replace its keys, None leaves one out."""
    for name, eps in (("near", 0.5), ("far", 5.0)):
        hparams = {**HPARAMS, "model_name": "of-its-own", "eps": eps}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(hparams))
    (folder / "facts.json").write_text(json.dumps(FACTS))
    grid = {
        "methods": {"near": "near.yaml", "far": "far.yaml"},
        "models": {"tiny": str(checkpoint)},
        "data": {"facts": {"path": "facts.json"}},
        "seeds": [0, 1],
        "edits": 2,
        "retention": [],
        "schedule": {"at": [1, 2]},
        **values,
    }
    file = folder / "grid.yaml"
    file.write_text(yaml.safe_dump({key: value for key, value in grid.items() if value is not None}, sort_keys=False))
    return file
