"""Text sampled from a model is stored: later collections read it, unless the model, the seed or the amount differ."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from easyedit_lifelong.covariance import collect_covariance
from easyedit_lifelong.covariance.sampling import SampledPlan
from tests.support.tiny_models import build_model


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The blocks that were sampled."""
    blocks: list[int] = []
    sample = SampledPlan.sample

    def recorded(plan: SampledPlan, block: int, rows: int) -> torch.Tensor:
        blocks.append(block)
        return sample(plan, block, rows)

    monkeypatch.setattr(SampledPlan, "sample", recorded)
    monkeypatch.setattr("easyedit_lifelong.covariance.sampling.ROWS", 2)
    monkeypatch.setattr("easyedit_lifelong.covariance.sampling.ROW_TOKENS", 16)
    return blocks


def _collect(model: Any, tokenizer: Any, layer: int, out: Path, tokens: int = 50, seed: int = 0) -> torch.Tensor:
    (second,) = collect_covariance(model, tokenizer, [layer], "self", tokens=tokens, out=out, seed=seed).values()
    return second.moment


def test_another_module_is_collected_from_the_same_text_without_sampling(
    llama: Any, tokenizer: Any, tmp_path: Path, sampled: list[int]
) -> None:
    _collect(llama, tokenizer, 1, tmp_path / "both")
    assert sampled == [0, 1]
    second = _collect(llama, tokenizer, 0, tmp_path / "both")
    assert sampled == [0, 1]
    assert torch.equal(second, _collect(llama, tokenizer, 0, tmp_path / "alone"))
    assert sampled == [0, 1, 0, 1]


def test_another_seed_or_other_weights_are_sampled_anew(
    llama: Any, tokenizer: Any, tmp_path: Path, sampled: list[int]
) -> None:
    _collect(llama, tokenizer, 1, tmp_path)
    _collect(llama, tokenizer, 0, tmp_path, seed=1)
    assert sampled == [0, 1, 0, 1]
    for file in tmp_path.rglob("*.npz"):  # they are of the first weights
        file.unlink()
        file.with_suffix(".json").unlink()
    other = build_model("llama")
    with torch.no_grad():
        other.get_input_embeddings().weight[3] += 1
    _collect(other, tokenizer, 1, tmp_path)
    assert sampled == [0, 1, 0, 1, 0, 1]


def test_a_longer_collection_reads_the_blocks_that_are_the_same(
    llama: Any, tokenizer: Any, tmp_path: Path, sampled: list[int]
) -> None:
    _collect(llama, tokenizer, 1, tmp_path)  # a block of two rows of 16 tokens, and one of two that is cut
    _collect(llama, tokenizer, 1, tmp_path, tokens=90)
    assert sampled == [0, 1, 2]


def test_a_damaged_file_is_replaced(
    llama: Any, tokenizer: Any, tmp_path: Path, sampled: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    expected = _collect(llama, tokenizer, 0, tmp_path / "expected")
    _collect(llama, tokenizer, 1, tmp_path / "damaged")
    first, _ = sorted((tmp_path / "damaged").rglob("text-*.safetensors"))
    whole, text = first.read_bytes(), load_file(first)
    first.write_bytes(whole[:-3])
    sampled.clear()
    with caplog.at_level(logging.WARNING):
        assert torch.equal(_collect(llama, tokenizer, 0, tmp_path / "damaged"), expected)
    assert sampled == [0] and "is damaged" in caplog.text
    assert torch.equal(load_file(first)["tokens"], text["tokens"])
