"""Rows that join and leave a shared cache have the logits that they have alone, in every family of causal models."""

from __future__ import annotations

import pytest
import torch

from easyedit_lifelong.models.encoding import pad_rows
from easyedit_lifelong.models.row_cache import RowCache, can_cache_rows, has_plain_cache, prefill
from tests.support.causal_families import FAMILIES
from tests.support.thoroughness import default_cases

_WITHOUT = {"mamba", "mamba2", "falcon_mamba", "rwkv", "recurrent_gemma", "falcon_h1", "bamba", "jamba"} | {
    *("lfm2", "qwen3_next", "bloom", "mpt", "openai-gpt")  # the last three: no position_ids, or no cache
}


@pytest.mark.parametrize("name", default_cases(FAMILIES, "gpt2", "llama", "mistral", "gemma3_text", "rwkv", "lfm2"))
@torch.no_grad()
def test_rows_have_the_logits_that_they_have_alone(name: str) -> None:
    model = FAMILIES[name].build().eval()
    assert can_cache_rows(model) == (name not in _WITHOUT)
    if name in _WITHOUT:
        return
    texts = [[3 + (7 * n + 5 * row) % 40 for n in range(length)] for row, length in enumerate((12, 20, 9, 26))]
    joins, leaves = [0, 2, 3, 5], [8, 6, 11, 20]  # steps before which rows join, and after which they leave
    cache, present, read = RowCache(), list[int](), {row: 4 for row in range(4)}
    seen = dict.fromkeys(range(4), 0)
    for step in range(21):
        for row in [row for row in range(4) if joins[row] == step]:
            ids = torch.tensor([texts[row][: read[row]]])
            cache.add_rows(prefill(model, ids, torch.ones_like(ids))[1], [read[row]])
            present.append(row)
        if present:
            tokens = torch.tensor([texts[row][read[row]] for row in present])
            logits = model(**cache.next_pass(tokens)).logits[:, -1]
            for row, row_logits in zip(present, logits, strict=True):
                read[row] += 1
                alone = model(input_ids=torch.tensor([texts[row][: read[row]]])).logits[0, -1]
                torch.testing.assert_close(row_logits, alone, atol=2e-5, rtol=1e-4)
                seen[row] += 1
        kept = [number for number, row in enumerate(present) if leaves[row] > step and read[row] < len(texts[row])]
        if len(kept) < len(present):
            cache.keep_rows(kept)
            present = [present[number] for number in kept]
            assert cache.lengths == [read[row] for row in present]
    assert min(seen.values()) > 3 and not present


def test_columns_of_rows_that_left_are_removed() -> None:
    model = FAMILIES["llama"].build().eval()
    cache = RowCache()
    ids, mask = pad_rows([list(range(3, 12)), list(range(5, 9))], 0, "left")
    cache.add_rows(prefill(model, ids, mask)[1], [9, 4])
    assert [layer.keys.shape[2] for layer in cache.cache.layers] == [9] * len(cache.cache.layers)
    cache.keep_rows([1])
    assert cache.lengths == [4]
    assert {layer.values.shape[2] for layer in cache.cache.layers} == {4}
    cache.keep_rows([])
    assert cache.lengths == [] and cache.cache.get_seq_length() == 0


@pytest.mark.parametrize(
    ("rope", "plain"), [("default", True), ("llama3", True), ("dynamic", False), ("longrope", False)]
)
def test_positions_that_depend_on_the_longest_row_are_refused(rope: str, plain: bool) -> None:
    model = FAMILIES["llama"].build()
    model.config.rope_parameters = {"rope_type": rope, "rope_theta": 1e4}
    assert has_plain_cache(model) == plain
    model.config.rope_parameters = {
        "full_attention": {"rope_type": rope},
        "sliding_attention": {"rope_type": "default"},
    }
    assert has_plain_cache(model) == plain
