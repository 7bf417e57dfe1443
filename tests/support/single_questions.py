"""Questions, and their scores and answers computed one question at a time, without batch, padding or cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from easyedit_lifelong.evaluation.teacher_forced import ForcedAnswer

QUESTIONS = [
    ("the capital of France is", "Paris"),
    ("who wrote Hamlet", "Shakespeare"),
    ("moon", "made from green cheese"),
    ("the river of London and the city of Rome where the old king plays piano", "far away"),
    ("language spoken in Peru", "Spanish and but not"),
    ("blue sea mountain snow", "summer winter bird song born when"),
]
PROMPTS = [prompt for prompt, _ in QUESTIONS]
TOKENS_PER_BATCH = [1, 16, 40, 10_000]

Row = tuple[tuple[int, ...], tuple[int, ...], float]
"""The most likely tokens, the tokens of the answer, and their mean negative log-likelihood."""


def score_alone(model: Any, tokenizer: Any, prompt: str, answer: str) -> Row:
    """Score one question without batch, padding or mask; compute its likelihood in float64."""
    prompt_ids, target = tokenizer(prompt)["input_ids"], tokenizer(answer)["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt_ids + target])).logits[0].double()
    chosen, nll = [], 0.0
    for step, token in enumerate(target):
        step_logits = logits[len(prompt_ids) - 1 + step]
        chosen.append(int(step_logits.argmax()))
        nll -= float(step_logits[token] - step_logits.logsumexp(0))
    return tuple(chosen), tuple(target), nll / len(target)


def generate_alone(model: Any, tokenizer: Any, prompt: str, new_tokens: int) -> str:
    """Generate greedily with a full forward pass for each token, until the end of text."""
    prompt_ids = tokenizer(prompt)["input_ids"]
    answer: list[int] = []
    for _ in range(new_tokens):
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([prompt_ids + answer]), use_cache=False).logits[0, -1].argmax())
        if token == 2:
            break
        answer.append(token)
    return tokenizer.decode(answer, skip_special_tokens=True)


def as_rows(scores: list[ForcedAnswer]) -> list[Row]:
    """Return scores in a form that equals rows up to rounding."""
    return [(score.chosen, score.target, pytest.approx(score.nll, rel=1e-4, abs=1e-4)) for score in scores]
