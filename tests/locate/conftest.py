"""A tiny model, its tokenizer, and facts that it knows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from easyedit_lifelong.locate.known_facts import KnownFact
from tests.support.tiny_models import build_model, build_tokenizer

PROMPTS = [
    ("the capital of France is", "France"),
    ("who wrote Hamlet and when was Shakespeare born in", "Hamlet"),
    ("the old king plays the", "old king"),
    ("Spanish is spoken in", "Spanish"),
]


@pytest.fixture(scope="package")
def pair() -> tuple[Any, Any]:
    """A tiny Llama in float64, and its tokenizer."""
    return build_model("llama", torch.float64), build_tokenizer()


@pytest.fixture(scope="package")
def facts(pair: tuple[Any, Any]) -> list[KnownFact]:
    """Facts that the model knows: the answer is its most likely token; and one that it doesn't know."""
    model, tokenizer = pair
    known = []
    for number, (prompt, subject) in enumerate(PROMPTS):
        ids = torch.tensor([tokenizer(prompt)["input_ids"]], device=model.device)
        with torch.no_grad():
            answer = tokenizer.decode(model(ids).logits[0, -1].argmax())
        known.append(KnownFact(number, prompt, subject, answer))
    wrong = "moon" if known[0].answer != "moon" else "cheese"
    return [known[0], KnownFact("wrong", PROMPTS[0][0], "France", wrong), *known[1:]]
