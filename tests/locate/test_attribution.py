"""Products of gradients equal those of materialised gradients, and find the texts that taught a fact."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from easyedit_lifelong.errors import DataError
from easyedit_lifelong.locate.attribution import attribute
from easyedit_lifelong.locate.lexical import bm25_scores
from tests.support.tiny_models import build_model, build_tokenizer

TEXTS = ["the old king wrote Hamlet", "the moon", "Rome is the capital of Peru and not Paris", "who plays piano"]
PROMPT, ANSWER = "the capital of France is", "Rome"


def by_autograd(model: Any, ids: list[int], first: int, names: list[str]) -> torch.Tensor:
    """Return the gradient of the mean loss of the tokens from an index on, for some weights, as one vector."""
    model.zero_grad()
    logits = model(torch.tensor([ids], device=model.device)).logits[0]
    torch.nn.functional.cross_entropy(logits[first - 1 : -1], torch.tensor(ids[first:])).backward()
    return torch.cat([model.get_submodule(name).weight.grad.flatten() for name in names])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_scores_equal_products_of_materialised_gradients(family: str) -> None:
    model, tokenizer = build_model(family, torch.float64), build_tokenizer()
    names = {
        "gpt2": ["transformer.h.1.attn.c_attn", "transformer.h.2.mlp.c_proj"],
        "llama": ["model.layers.0.self_attn.q_proj", "model.layers.3.mlp.down_proj"],
    }[family]
    plain = attribute(model, tokenizer, TEXTS, PROMPT, ANSWER, layers=names, normalise=False)
    cosines = attribute(model, tokenizer, TEXTS, PROMPT, ANSWER, layers=names)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    prompt = tokenizer(PROMPT)["input_ids"]
    query = by_autograd(model, prompt + tokenizer(ANSWER)["input_ids"], len(prompt), names)
    for text, score, cosine in zip(TEXTS, plain, cosines, strict=True):
        gradient = by_autograd(model, tokenizer(text)["input_ids"], 1, names)
        assert score == pytest.approx(float(gradient @ query), rel=1e-9)
        assert cosine == pytest.approx(float(gradient @ query / gradient.norm() / query.norm()), rel=1e-9)


def test_the_default_layers_are_the_output_projections_of_all_mlps() -> None:
    model, tokenizer = build_model("llama", torch.float64), build_tokenizer()
    names = [f"model.layers.{layer}.mlp.down_proj" for layer in range(4)]
    named = attribute(model, tokenizer, TEXTS, PROMPT, ANSWER, layers=names)
    assert attribute(model, tokenizer, TEXTS, PROMPT, ANSWER) == named


def test_a_score_is_what_a_step_on_the_text_does_to_the_answer() -> None:
    """L(q) after a step of gradient descent of length η on a text is L(q) - η score, to first order."""
    model, tokenizer = build_model("gpt2", torch.float64), build_tokenizer()
    names, step = ["transformer.h.1.mlp.c_proj", "transformer.h.2.mlp.c_proj"], 1e-8
    scores = attribute(model, tokenizer, TEXTS, PROMPT, ANSWER, layers=names, normalise=False)
    prompt, answer = tokenizer(PROMPT)["input_ids"], tokenizer(ANSWER)["input_ids"]

    def loss() -> float:
        with torch.no_grad():
            logits = model(torch.tensor([prompt], device=model.device)).logits[0, -1]
        return float(-logits.log_softmax(0)[answer[0]])

    before = loss()
    for text, score in zip(TEXTS, scores, strict=True):
        gradient = by_autograd(model, tokenizer(text)["input_ids"], 1, names)
        weights = [model.get_submodule(name).weight for name in names]
        saved = [weight.detach().clone() for weight in weights]
        with torch.no_grad():
            for weight, part in zip(weights, gradient.split([weight.numel() for weight in weights]), strict=True):
                weight -= step * part.view_as(weight)
            assert (before - loss()) / step == pytest.approx(score, rel=1e-2, abs=1e-4)
            for weight, value in zip(weights, saved, strict=True):
                weight.copy_(value)


def test_unusable_texts_are_named() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    with pytest.raises(DataError, match="no texts"):
        attribute(model, tokenizer, [], PROMPT, ANSWER)
    with pytest.raises(DataError, match="text 2: has fewer than two tokens"):
        attribute(model, tokenizer, [TEXTS[0], "moon"], PROMPT, ANSWER)
    with pytest.raises(DataError, match="text 1: has 70 tokens; the model reads 64"):
        attribute(model, tokenizer, ["moon " * 70], PROMPT, ANSWER)


def test_bm25_equals_its_formula() -> None:
    scores = bm25_scores(["the old king", "the moon and the moon", "a song"], "Moon king")
    length = 1.5 * (0.25 + 0.75 * 5 / (10 / 3))
    rarity = math.log(1 + 2.5 / 1.5)
    assert scores[1] == pytest.approx(rarity * 2 * 2.5 / (2 + length))
    assert scores[0] > 0 == scores[2]
