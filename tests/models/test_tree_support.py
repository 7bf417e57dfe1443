"""Which models compute prefix trees: those that give their rows the logits of separate rows."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from easyedit_lifelong.models import tree_support
from easyedit_lifelong.models.plain_models import reads_rows_plainly
from easyedit_lifelong.models.prefix_tree import pack_rows, tree_pass
from easyedit_lifelong.models.tree_support import supports_trees
from tests.support.causal_families import FAMILIES
from tests.support.thoroughness import default_cases
from tests.support.tiny_models import build_model

_WITHOUT_TREES = {
    # position biases, recurrent states, convolutions; no position_ids
    *("bloom", "mpt", "mamba", "mamba2", "falcon_mamba", "rwkv", "recurrent_gemma", "falcon_h1", "bamba", "jamba"),
    *("lfm2", "qwen3_next", "openai-gpt"),
    # attention windows shorter than the rows of a tree
    *("gpt_neo", "mistral", "gemma2", "gemma3_text", "cohere2"),
}


def supports(model: Any, width: int) -> bool:
    return reads_rows_plainly(model) and supports_trees(model, width)


@pytest.mark.parametrize(
    "name", default_cases(FAMILIES, "bloom", "gpt2", "gpt_neo", "lfm2", "llama", "mistral", "rwkv")
)
def test_only_models_with_the_logits_of_separate_rows_get_trees(name: str) -> None:
    model = FAMILIES[name].build().eval()
    assert supports(model, 32) == (name not in _WITHOUT_TREES)


@torch.no_grad()
@pytest.mark.parametrize("name", default_cases(sorted(set(FAMILIES) - _WITHOUT_TREES), "gpt2", "llama", "falcon"))
def test_logits_of_a_tree_are_those_of_separate_rows(name: str) -> None:
    model = FAMILIES[name].build().eval()
    draw = random.Random(0)
    rows = [[draw.choice((5, 6)) for _ in range(draw.randint(2, 16))] for _ in range(20)]
    trees, places = pack_rows(rows, 32)
    assert len(trees) > 1 and sum(len(tree.tokens) for tree in trees) < sum(map(len, rows))
    logits = tree_pass(model, trees, 0)
    for row, (tree, path) in zip(rows, places, strict=True):
        alone = model(input_ids=torch.tensor([row])).logits[0]
        torch.testing.assert_close(logits[tree, path], alone, rtol=1e-4, atol=1e-5)


def test_a_model_is_tried_once_for_each_width(monkeypatch: pytest.MonkeyPatch) -> None:
    model, widths = build_model("llama"), []

    def fail(_: Any, width: int) -> bool:
        widths.append(width)
        return False

    monkeypatch.setattr(tree_support, "_try_tree", fail)
    assert [supports_trees(model, width) for width in (16, 32, 16, 32)] == [False] * 4
    assert widths == [16, 32]


def test_a_tree_wider_than_the_context_is_not_tried() -> None:
    model = build_model("llama")
    assert not supports_trees(model, model.config.max_position_embeddings + 1)
