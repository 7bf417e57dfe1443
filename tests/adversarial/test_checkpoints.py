"""Damaged checkpoints: an error of the package that names the folder, or a model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from easyedit_lifelong import load_model
from easyedit_lifelong.errors import LifelongError


def message_of_loading(folder: Path) -> str:
    """Load a checkpoint; return the message of the package's error, or the folder's name."""
    try:
        load_model(folder, "cpu")
    except LifelongError as error:
        return str(error)
    return str(folder)


def copied(checkpoint: Path, folder: Path) -> Path:
    shutil.copytree(checkpoint, folder)
    return folder


# A configuration without sizes would have those of a model of 7 billion parameters.
@pytest.mark.parametrize("text", ["", "[]", "5", "\x00", '{"architectures": true}', '{"architectures": [4]}'])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_any_text_in_a_file(checkpoint: Path, tmp_path: Path, name: str, text: str) -> None:
    folder = copied(checkpoint, tmp_path / "model")
    (folder / name).write_text(text)
    assert str(folder) in message_of_loading(folder)


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_truncated_weights_are_refused(checkpoint: Path, tmp_path: Path, kept: int) -> None:
    folder = copied(checkpoint, tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    message = message_of_loading(folder)
    assert message.startswith(f"{folder}: can't load")
