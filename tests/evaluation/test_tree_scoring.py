"""Scores from prefix trees are those of single questions, and trees are used where they save time."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from easyedit_lifelong import GraceHyperParams, apply_grace_to_model
from easyedit_lifelong.evaluation import tree_scoring
from easyedit_lifelong.evaluation.scorer import Scorer
from tests.support.single_questions import as_rows, score_alone
from tests.support.tiny_models import build_model, build_tokenizer

LAYER = {"llama": "model.layers[2].mlp.down_proj.weight", "gpt2": "transformer.h[2].mlp.c_fc.weight"}
PROMPT = "the capital of France is"
QUESTIONS = [
    (f"{beginning} {end}", answer)
    for beginning in (PROMPT, "the river of London", "moon")
    for end in ("blue sea", "green cheese and", "song")
    for answer in ("Paris", "far away", "far from Rome", "Rome")
]
LONG = ("the river of London and the city of Rome where the old king plays piano", "far away")


@pytest.fixture(autouse=True)
def _narrow_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_scoring, "_WIDTHS", (24,))  # the tiny models have a context of 64 tokens


@contextlib.contextmanager
def recording_passes(model: Any) -> Iterator[list[tuple[int, int]]]:
    """Record how many tokens each pass reads, and how many dimensions its attention mask has: 4 with trees."""
    passes: list[tuple[int, int]] = []

    forward = type(model).forward

    @functools.wraps(forward)
    def recorded(self: Any, *args: Any, **kwargs: Any) -> Any:
        passes.append((kwargs["input_ids"].numel(), kwargs["attention_mask"].dim()))
        return forward(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model), "forward", recorded)
        yield passes


@pytest.mark.parametrize("tokens_per_batch", [1, 40, 512])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_scores_equal_those_of_single_questions(name: str, tokens_per_batch: int) -> None:
    model, tokenizer = build_model(name), build_tokenizer()
    questions = [*QUESTIONS[::2], LONG, *QUESTIONS[1::2]]
    expected = [score_alone(model, tokenizer, *question) for question in questions]
    Scorer(tokenizer).forced(model, questions)  # the model is tried here
    with recording_passes(model) as passes:
        assert as_rows(Scorer(tokenizer, tokens_per_batch).forced(model, questions)) == expected
    assert {dimensions for _, dimensions in passes} == {4, 2}, "trees, and a separate row for the long question"


def test_common_beginnings_are_read_once() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    scorer = Scorer(tokenizer)
    scorer.forced(model, QUESTIONS)
    with recording_passes(model) as passes:
        scorer.forced(model, QUESTIONS)
    rows = {tuple(scorer.encode(*question).tokens[:-1]) for question in QUESTIONS}
    assert sum(tokens for tokens, _ in passes) < 0.6 * sum(map(len, rows))


def test_scores_of_an_edited_model_do_not_come_from_trees() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    before = Scorer(tokenizer).forced(model, QUESTIONS)
    hparams = GraceHyperParams(model_name="m", inner_params=[LAYER["llama"]], n_iter=30, eps=0.1)
    prompt, answer = QUESTIONS[0][0], "Rome"
    model, rollback = apply_grace_to_model(model, tokenizer, [{"prompt": prompt, "target_new": answer}], hparams)
    alone = [Scorer(tokenizer, 1).forced(model, [question])[0] for question in QUESTIONS]
    with recording_passes(model) as passes:
        scores = Scorer(tokenizer).forced(model, QUESTIONS)
    assert {dimensions for _, dimensions in passes} == {2}
    assert [(answer.chosen, answer.target, answer.nll) for answer in alone] == as_rows(scores)
    assert as_rows(scores) != [(answer.chosen, answer.target, answer.nll) for answer in before], "no score has changed"
    rollback()


def test_a_model_with_edited_weights_is_scored_with_its_new_weights() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    before = Scorer(tokenizer).forced(model, QUESTIONS)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(-3)
    with recording_passes(model) as passes:
        after = Scorer(tokenizer).forced(model, QUESTIONS)
    assert {dimensions for _, dimensions in passes} == {4}
    assert as_rows(after) == [score_alone(model, tokenizer, *question) for question in QUESTIONS]
    assert after != before


def test_few_questions_are_scored_in_separate_rows() -> None:
    """A model would be tried on more tokens than trees save."""
    model, tokenizer = build_model("llama"), build_tokenizer()
    with recording_passes(model) as passes:
        Scorer(tokenizer).forced(model, QUESTIONS[:3])
    assert [dimensions for _, dimensions in passes] == [2]
