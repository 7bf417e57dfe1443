"""The gate: which key is nearest to each token, and whether its edit answers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from easyedit_lifelong.methods.neuraldb import fact_table
from easyedit_lifelong.methods.neuraldb.fact_table import FactTable, answered_tokens
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.methods.shared.replaced_edits import replaced_by
from easyedit_lifelong.methods.shared.separate_edit import SeparateEdit


def table_of(keys: Tensor, gamma: float = 0.65) -> FactTable:
    record = EditRecord("case", "prompt", "target", "subject", None, "2026-01-01T00:00:00+00:00")
    return FactTable(
        [
            SeparateEdit(
                record, {"gamma": gamma, "key_tokens": [n]}, {"key": key, "residual": torch.full((3,), float(n))}
            )
            for n, key in enumerate(keys)
        ]
    )


@pytest.mark.parametrize("pairs_at_once", [1 << 24, 5000], ids=["one block", "blocks"])
def test_the_nearest_of_a_thousand_keys_is_that_of_a_comparison_in_float64(
    pairs_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fact_table, "_PAIRS_AT_ONCE", pairs_at_once)
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(1000, 40, generator=generator) * torch.rand(1000, 1, generator=generator)
    tokens = torch.randn(3, 11, 40, generator=generator) + 2 * keys[torch.arange(33) * 30].view(3, 11, 40)
    lookup = table_of(keys).lookup(tokens)
    exact = torch.nn.functional.cosine_similarity(tokens.double().unsqueeze(2), keys.double(), dim=-1)
    assert torch.equal(lookup.row, exact.argmax(dim=-1))
    torch.testing.assert_close(lookup.cosine.double(), exact.amax(dim=-1), rtol=0, atol=1e-6)
    assert torch.equal(lookup.answers, exact.amax(dim=-1) > 0.65)
    assert 0 < int(lookup.answers.sum()) < 33


def test_the_cosine_must_be_above_gamma() -> None:
    lookup = table_of(torch.tensor([[1.0, 0.0]]), gamma=0.5).lookup(torch.tensor([[1.0, 1.7], [1.0, 1.8], [-9.0, 0.0]]))
    assert lookup.answers.tolist() == [True, False, False]
    equal_to_gamma = table_of(torch.tensor([[1.0, 0.0]]), gamma=0.0).lookup(torch.tensor([[0.0, 1.0]]))
    assert not equal_to_gamma.answers


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_token_without_a_direction_gets_no_answer(value: float) -> None:
    assert not table_of(torch.ones(2, 4)).lookup(torch.full((1, 4), value)).answers


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_inputs_of_other_dtypes_are_compared_in_at_least_float32(dtype: torch.dtype) -> None:
    keys = torch.randn(50, 2000, generator=torch.Generator().manual_seed(1))
    tokens = (300 * keys).to(dtype)  # the sum of the squares overflows in half precision
    lookup = table_of(keys).lookup(tokens)
    assert lookup.row.tolist() == list(range(50))
    assert lookup.cosine.min() > 0.9999


def test_of_equal_key_tokens_the_latest_edit_answers() -> None:
    record = EditRecord("case", "prompt", "target", None, None, "now")
    edits = [SeparateEdit(record, {"key_tokens": tokens}) for tokens in ([1, 2], [1], [1, 2], [3], [1, 2])]
    assert replaced_by([answered_tokens(edit) for edit in edits]) == [4, None, 4, None, None]
