"""Damaged checkpoints: an error of the package that names the folder, or a model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from easyedit_lifelong import load_model
from easyedit_lifelong.errors import LifelongError
from tests.support import thoroughness

VALUES: list[Any] = [None, True, -1, 0, 7, 1.5, "x", "", [], [4], {}, {"a": 1}]
FIELDS = [
    "model_type",
    "architectures",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "num_hidden_layers",
    "intermediate_size",
    "vocab_size",
    "hidden_act",
    "rms_norm_eps",
    "rope_parameters",
    "torch_dtype",
    "dtype",
    "tie_word_embeddings",
    "head_dim",
    "quantization_config",
]


def message_of_loading(folder: Path) -> str:
    """Load a checkpoint; return the message of the package's error, or the folder's name."""
    try:
        load_model(folder, "cpu")
    except LifelongError as error:
        return str(error)
    return str(folder)


def damaged_copy(checkpoint: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(checkpoint, folder)
    return folder


@settings(
    max_examples=200 if thoroughness.full else 15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(field=st.sampled_from(FIELDS), value=st.sampled_from(range(len(VALUES))))
def test_any_value_in_config_json(checkpoint: Path, tmp_path: Path, field: str, value: int) -> None:
    folder = damaged_copy(checkpoint, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, field: VALUES[value]}))
    assert str(folder) in message_of_loading(folder)


@pytest.mark.parametrize("text", ["", "[]", "5", "[" * 100_000, '{"model_type": "llama"}', "\x00"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_any_text_in_a_file(checkpoint: Path, tmp_path: Path, name: str, text: str) -> None:
    folder = damaged_copy(checkpoint, tmp_path / "model")
    (folder / name).write_text(text)
    assert str(folder) in message_of_loading(folder)


@pytest.mark.parametrize("kept", [0, 7, 100, -1, -1000])
def test_truncated_weights(checkpoint: Path, tmp_path: Path, kept: int) -> None:
    folder = damaged_copy(checkpoint, tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    assert str(folder) in message_of_loading(folder)
