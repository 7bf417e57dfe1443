"""Scorers tell a listener how many answers are computed."""

from __future__ import annotations

from typing import Any

import pytest

from easyedit_lifelong.evaluation.answer_count import counted_by
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.runs.api import run_lifelong
from tests.support.single_questions import PROMPTS, QUESTIONS
from tests.support.tiny_models import FAMILIES

Counts = list[tuple[int, int]]


def assert_counted(counts: Counts, total: int) -> None:
    """Check that numbers rise, by more than one step, to a total."""
    assert len(counts) > 1 and counts == sorted(set(counts))
    assert {asked for _, asked in counts} == {total} and counts[-1][0] == total


@pytest.mark.parametrize("tokens_per_batch", [1, 16])
def test_forced_and_generated_answers_are_counted_up_to_the_distinct_ones(
    llama: Any, tokenizer: Any, tokens_per_batch: int
) -> None:
    scorer = Scorer(tokenizer, tokens_per_batch)
    forced, generated = Counts(), Counts()
    with counted_by(lambda *numbers: forced.append(numbers)):
        scorer.forced(llama, [*QUESTIONS, QUESTIONS[0]])
        with counted_by(lambda *numbers: generated.append(numbers)):
            Scorer(tokenizer, 1).generate(llama, PROMPTS, 2)
    scorer.forced(llama, QUESTIONS)  # outside, nobody is told
    assert_counted(forced, len(set(QUESTIONS)))
    assert_counted(generated, len(PROMPTS))


def test_a_run_tells_its_display_of_the_scoring_before_the_first_edit(llama: Any, tokenizer: Any) -> None:
    received: list[str] = []

    class Display:
        def scoring(self, done: int, total: int) -> None:
            received.append("scoring" if done < total else "scored")

        def edited(self, done: int, scores: Any) -> None:
            received.append("edited")

    requests = [{"prompt": prompt, "target_new": "Rome"} for prompt in PROMPTS]
    hparams = GraceHyperParams(model_name="m", inner_params=[FAMILIES["llama"][1]], n_iter=2)
    run_lifelong(llama, tokenizer, requests, hparams, retention=[], progress=Display())
    assert "scored" in received[: received.index("edited")]
