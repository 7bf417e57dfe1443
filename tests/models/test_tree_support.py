"""Which models compute prefix trees: those with the same logits, of which nothing but the weights has changed."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch

from easyedit_lifelong import GraceHyperParams, apply_grace_to_model
from easyedit_lifelong.models import tree_support
from easyedit_lifelong.models.prefix_tree import pack_rows, tree_pass
from easyedit_lifelong.models.tree_support import reads_rows_plainly, supports_trees
from tests.support.architectures import untrained
from tests.support.causal_families import FAMILIES
from tests.support.thoroughness import default_cases
from tests.support.tiny_models import build_model, build_tokenizer

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


def test_an_edited_model_gets_no_trees_until_its_edits_are_rolled_back() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    hparams = GraceHyperParams(model_name="m", inner_params=["model.layers[2].mlp.down_proj.weight"], n_iter=3)
    request = {"prompt": "the capital of France is", "target_new": "Rome"}
    assert reads_rows_plainly(model)
    model, rollback = apply_grace_to_model(model, tokenizer, [request], hparams)
    assert not reads_rows_plainly(model)
    rollback()
    assert reads_rows_plainly(model)


def _with_hook(model: Any) -> Any:
    model.model.layers[0].mlp.register_forward_hook(lambda *_: None)
    return model


def _with_earlier_hook(model: Any) -> Any:
    model.model.layers[0].register_forward_pre_hook(lambda *_: None)
    return model


def _with_other_function(model: Any) -> Any:
    mlp = model.model.layers[1].mlp
    mlp.forward = mlp.forward
    return model


def _with_foreign_module(model: Any) -> Any:
    class Other(torch.nn.Identity):
        """A module of neither torch nor transformers."""

    model.model.norm = Other()
    return model


_CHANGES = [_with_hook, _with_earlier_hook, _with_other_function, _with_foreign_module, lambda model: model.half()]


@pytest.mark.parametrize("change", _CHANGES)
def test_a_model_that_more_than_its_weights_differ_in_gets_no_trees(change: Any) -> None:
    model = build_model("llama")
    assert reads_rows_plainly(copy.deepcopy(model))
    assert not reads_rows_plainly(change(model))


@pytest.mark.parametrize("kind", ["t5", "bert"])
def test_other_kinds_of_models_get_no_trees(kind: str) -> None:
    assert not reads_rows_plainly(untrained(kind))
