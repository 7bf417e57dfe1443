"""Merged files hold the second moments of all their texts; files that do not belong together are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong.covariance import collect_covariance, merge_moments
from easyedit_lifelong.errors import CovarianceError
from tests.support.second_moments import MODULES, assert_close, float64_sums, make_texts

MODULE = MODULES["llama"].format(1)
FIRST, SECOND = make_texts(20, seed=1), make_texts(35, seed=2)


@pytest.fixture
def parts(llama: Any, tokenizer: Any, tmp_path: Path) -> list[Path]:
    """Two files of one module, each of another text."""
    files = []
    for number, texts in enumerate((FIRST, SECOND)):
        moments = collect_covariance(llama, tokenizer, [1], texts, samples=100, out=tmp_path / str(number))
        files.append(Path(moments[MODULE].source))
    return files


def test_merged_moments_equal_a_collection_over_both_texts(
    llama: Any, tokenizer: Any, parts: list[Path], tmp_path: Path
) -> None:
    merged = merge_moments(parts, tmp_path / "all" / "merged.npz")
    expected = float64_sums(llama, tokenizer, [MODULE], FIRST + SECOND)[MODULE]
    assert_close(merged.moment, expected / merged.count)
    collected = collect_covariance(llama, tokenizer, [1], FIRST + SECOND, samples=100, out=tmp_path)[MODULE]
    assert merged.count == collected.count
    torch.testing.assert_close(merged.moment, collected.moment, rtol=1e-5, atol=1e-6)
    sidecar = json.loads((tmp_path / "all" / "merged.json").read_text())
    assert (sidecar["count"], sidecar["documents"], sidecar["module"]) == (merged.count, 55, MODULE)
    assert [part["kind"] for part in sidecar["corpus"]["parts"]] == ["texts", "texts"]


def test_merging_the_same_text_twice_is_refused(parts: list[Path], tmp_path: Path) -> None:
    with pytest.raises(CovarianceError, match="the same text"):
        merge_moments([parts[0], parts[1], parts[0]], tmp_path / "m.npz")


def test_self_sampled_text_of_another_seed_can_be_merged(llama: Any, tokenizer: Any, tmp_path: Path) -> None:
    files = [
        collect_covariance(llama, tokenizer, [1], "self", tokens=40, seed=seed, out=tmp_path / str(n))[MODULE].source
        for n, seed in enumerate((0, 1, 1))
    ]
    assert merge_moments(files[:2], tmp_path / "m.npz").count == 80
    with pytest.raises(CovarianceError, match="the same text"):
        merge_moments(files[1:], tmp_path / "n.npz")


def test_moments_of_other_modules_or_weights_are_not_merged(
    llama: Any, tokenizer: Any, parts: list[Path], tmp_path: Path
) -> None:
    other = collect_covariance(llama, tokenizer, [2], SECOND, samples=100, out=tmp_path)
    with pytest.raises(CovarianceError, match=r"module is model.layers.2"):
        merge_moments([parts[0], Path(next(iter(other.values())).source)], tmp_path / "m.npz")
    with torch.no_grad():
        llama.model.embed_tokens.weight[9, 3] += 1
    changed = collect_covariance(llama, tokenizer, [1], SECOND, samples=100, out=tmp_path / "changed")
    with pytest.raises(CovarianceError, match="fingerprint is"):
        merge_moments([parts[0], changed[MODULE].source], tmp_path / "m.npz")
    assert not (tmp_path / "m.npz").exists()


def test_unusable_files_and_targets_are_refused(parts: list[Path], tmp_path: Path) -> None:
    with pytest.raises(CovarianceError, match="two files or more"):
        merge_moments(parts[:1], tmp_path / "m.npz")
    with pytest.raises(CovarianceError, match="is there already"):
        merge_moments(parts, parts[0])
    with pytest.raises(CovarianceError, match=r"must end in \.npz"):
        merge_moments(parts, tmp_path / "m")
    with pytest.raises(CovarianceError, match="no such file"):
        merge_moments([parts[0], tmp_path / "none.npz"], tmp_path / "m.npz")
    parts[1].with_suffix(".json").unlink()
    with pytest.raises(CovarianceError, match="says what it is of"):
        merge_moments(parts, tmp_path / "m.npz")
