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


SETTINGS = ["hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size", "rms_norm_eps", "model_type"]
SETTINGS += ["architectures", "hidden_act", "intermediate_size", "dtype", "max_position_embeddings", "rope_parameters"]
SETTINGS += ["eos_token_id", "pad_token_id", "tie_word_embeddings", "num_key_value_heads", "quantization_config"]
VALUES: list[Any] = [None, -1, 0, 3, 70, 1e400, "x", "", [], ["x"], {}, {"quant_method": "x"}, True]


@settings(
    max_examples=200 if thoroughness.full else 8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(name=st.sampled_from(SETTINGS), value=st.sampled_from(VALUES))
def test_a_configuration_with_any_value_is_refused_or_gives_a_model(
    checkpoint: Path, tmp_path: Path, name: str, value: Any
) -> None:
    shutil.rmtree(tmp_path / "model", ignore_errors=True)
    folder = copied(checkpoint, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, name: value}))
    assert str(folder) in message_of_loading(folder)


@settings(
    max_examples=100 if thoroughness.full else 5,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(position=st.integers(0, 10**6), data=st.binary(max_size=6))
def test_a_weight_file_with_a_damaged_header_is_refused_or_complete(
    checkpoint: Path, tmp_path: Path, position: int, data: bytes
) -> None:
    shutil.rmtree(tmp_path / "model", ignore_errors=True)
    folder = copied(checkpoint, tmp_path / "model")
    weights = (folder / "model.safetensors").read_bytes()
    at = position % (8 + int.from_bytes(weights[:8], "little"))
    (folder / "model.safetensors").write_bytes(weights[:at] + data + weights[at + len(data) :])
    assert str(folder) in message_of_loading(folder)
