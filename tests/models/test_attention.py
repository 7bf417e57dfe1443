"""Query heads that share keys and values are computed together, with the same result."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from easyedit_lifelong.models.attention import grouped_queries
from tests.support.tiny_models import build_model

IDS = torch.tensor([[4, 5, 6, 7, 8, 9], [0, 0, 12, 13, 14, 15]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]])


def test_grouped_queries_change_neither_logits_nor_gradients(family: str) -> None:
    model = build_model(family)
    model.requires_grad_(False)
    results = []
    for grouped in (False, True):
        embedded = model.get_input_embeddings()(IDS).detach().requires_grad_(True)
        if grouped:
            with grouped_queries():
                logits = model(inputs_embeds=embedded, attention_mask=MASK).logits
        else:
            logits = model(inputs_embeds=embedded, attention_mask=MASK).logits
        log_probs = logits[MASK.bool()].log_softmax(dim=-1)
        results.append((log_probs.detach(), torch.autograd.grad(log_probs[:, 3].sum(), embedded)[0]))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-3)


def heads_computed(monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[int]:
    """Attend with four query heads on two key heads; return the number of heads of each call of torch."""
    heads: list[int] = []
    attend = F.scaled_dot_product_attention

    def watch(query: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        heads.append(query.shape[1])
        # CUDA's kernels return heads as the third dimension in memory.
        return attend(query, *args, **kwargs).transpose(1, 2).contiguous().transpose(1, 2)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watch)
    module = torch.nn.Module()
    module.num_key_value_groups = 2  # type: ignore[assignment]
    query, key, value = torch.randn(2, 4, 3, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8)
    mask = options.pop("mask", torch.ones(2, 1, 3, 5, dtype=torch.bool))
    original = ALL_ATTENTION_FUNCTIONS["sdpa"]
    expected, _ = original(module, query, key, value, mask, **options)
    heads.clear()
    with grouped_queries():
        out, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, mask, **options)
    torch.testing.assert_close(out, expected)
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is original
    return heads


def test_query_heads_that_share_keys_are_computed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    assert heads_computed(monkeypatch, scaling=0.3) == [2]
    mask = torch.rand(2, 1, 3, 5) > 0.4
    mask[..., 0] = True
    assert heads_computed(monkeypatch, mask=mask) == [2]


@pytest.mark.parametrize("mask", [None, torch.ones(2, 4, 3, 5, dtype=torch.bool)])
def test_masks_that_cannot_be_grouped_are_left_to_transformers(monkeypatch: pytest.MonkeyPatch, mask: Any) -> None:
    assert heads_computed(monkeypatch, mask=mask, is_causal=False) == [4]


def test_transformers_attention_is_restored_after_an_error_and_after_nesting() -> None:
    original = ALL_ATTENTION_FUNCTIONS["sdpa"]
    with pytest.raises(ZeroDivisionError), grouped_queries(), grouped_queries():
        raise ZeroDivisionError
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is original
    assert not ALL_ATTENTION_FUNCTIONS._local_mapping


def test_threads_group_queries_each_for_itself() -> None:
    """A thread whose context ends after that of another one restores transformers' function, too."""
    original, contexts = ALL_ATTENTION_FUNCTIONS["sdpa"], [grouped_queries(), grouped_queries()]
    model = build_model("llama")
    ungrouped = model(IDS, attention_mask=MASK).logits
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        first.submit(contexts[0].__enter__).result()
        second.submit(contexts[1].__enter__).result()
        assert torch.equal(model(IDS, attention_mask=MASK).logits, ungrouped), "queries of a third thread were grouped"
        first.submit(contexts[0].__exit__, None, None, None).result()
        second.submit(contexts[1].__exit__, None, None, None).result()
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is original
    assert not ALL_ATTENTION_FUNCTIONS._local_mapping
