"""Second moments and self-sampled text of a real model, SmolLM2-135M."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong import load_model
from easyedit_lifelong.covariance import collect_covariance
from easyedit_lifelong.covariance.blocks import Amount, Position
from easyedit_lifelong.covariance.sampling import SampledPlan
from easyedit_lifelong.errors import ModelError
from tests.support.second_moments import assert_close, float64_sums

pytestmark = pytest.mark.smollm2

SAMPLES = Path(__file__).resolve().parents[2] / "easyedit_lifelong" / "data" / "samples" / "counterfact.json"


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    try:
        return load_model("smollm2-135m", "cpu")
    except ModelError as error:
        pytest.skip(str(error))


def test_moments_equal_a_direct_float64_computation(pair: tuple[Any, Any], tmp_path: Path) -> None:
    texts = [record["prompt"] for record in json.loads(SAMPLES.read_text(encoding="utf-8"))[:12]]
    found = collect_covariance(*pair, [3, 5], texts, samples=12, out=tmp_path)
    modules = [f"model.layers.{layer}.mlp.down_proj" for layer in (3, 5)]
    assert list(found) == modules
    expected = float64_sums(*pair, modules, texts)
    for module in modules:
        assert found[module].moment.shape == (1536, 1536)
        assert_close(found[module].moment, expected[module] / found[module].count, 1e-4)


def test_sampled_rows_are_readable_text(pair: tuple[Any, Any]) -> None:
    model, tokenizer = pair
    plan = SampledPlan(model, tokenizer, Amount(tokens=160), 20, 0)
    rows = [row for block in plan.blocks(Position()) for row in block.rows()]
    assert sum(map(len, rows)) == 160
    texts = [tokenizer.decode(row) for row in rows]
    assert len(set(texts)) == len(texts)
    assert not any("<|im_" in text for text in texts)
    letters = sum(character.isalpha() or character.isspace() for text in texts for character in text)
    assert letters / sum(map(len, texts)) > 0.7
