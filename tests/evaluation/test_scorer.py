"""Teacher-forced scores do not depend on the batch, its padding or its order."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.evaluation.teacher_forced import ForcedAnswer
from easyedit_lifelong.methods.grace.apply import apply_grace_to_model
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from tests.support.single_questions import PROMPTS, QUESTIONS, TOKENS_PER_BATCH, as_rows, score_alone
from tests.support.thoroughness import examples
from tests.support.tiny_models import FAMILIES, WORDS, build_model, build_tokenizer


@pytest.mark.parametrize("tokens_per_batch", TOKENS_PER_BATCH)
def test_teacher_forced_scores_equal_those_of_single_questions(
    family: str, tokenizer: Any, tokens_per_batch: int
) -> None:
    model = build_model(family)
    expected = [score_alone(model, tokenizer, *question) for question in QUESTIONS]
    assert expected == as_rows(Scorer(tokenizer, tokens_per_batch).forced(model, QUESTIONS))
    assert len({row[0][0] for row in expected}) > 1, "the model gives one answer to all questions"


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_scores_of_an_edited_model_do_not_depend_on_the_batch(name: str, tokenizer: Any) -> None:
    """The edit acts at the prompt end of each row, with any other rows in the batch."""
    model = build_model(name)
    hparams = GraceHyperParams(model_name="m", inner_params=[FAMILIES[name][1]], n_iter=30, eps=0.1)
    requests = [{"prompt": prompt, "target_new": answer} for prompt, answer in QUESTIONS[:3]]
    before = Scorer(tokenizer).forced(model, QUESTIONS)
    model, rollback = apply_grace_to_model(model, tokenizer, requests, hparams)
    alone = [Scorer(tokenizer, 1).forced(model, [question])[0] for question in QUESTIONS]
    assert [s.nll for s in alone[:3]] != [pytest.approx(s.nll) for s in before[:3]], "the edits change no score"
    answers = Scorer(tokenizer, 1).generate(model, PROMPTS, 5)
    for tokens_per_batch in TOKENS_PER_BATCH[1:]:
        scorer = Scorer(tokenizer, tokens_per_batch)
        assert [(s.chosen, s.target, s.nll) for s in alone] == as_rows(scorer.forced(model, QUESTIONS))
        assert scorer.generate(model, PROMPTS, 5) == answers
    rollback()


@functools.cache
def _shared_mistral() -> Any:
    """Return one model for all examples of a property; with its window of 4, padding could change scores."""
    return build_model("mistral")


_TEXT = st.lists(st.sampled_from(WORDS), min_size=1, max_size=7).map(" ".join)


@examples(15)
@given(st.lists(st.tuples(_TEXT, _TEXT), min_size=1, max_size=6), st.integers(1, 60), st.randoms())
def test_any_questions_in_any_order_have_the_scores_of_single_questions(
    questions: list[tuple[str, str]], tokens_per_batch: int, random: Any
) -> None:
    model, tokenizer = _shared_mistral(), build_tokenizer()
    order = list(range(len(questions)))
    random.shuffle(order)
    scores = Scorer(tokenizer, tokens_per_batch).forced(model, [questions[i] for i in order])
    assert [score_alone(model, tokenizer, *questions[i]) for i in order] == as_rows(scores)


def test_small_negative_log_likelihoods_are_exact(llama: Any, tokenizer: Any) -> None:
    """The logarithm of a float32 softmax would lose the likelihood of an answer that is nearly certain."""
    with torch.no_grad():
        llama.lm_head.weight.mul_(4)
    for question, score in zip(QUESTIONS, Scorer(tokenizer).forced(llama, QUESTIONS), strict=True):
        expected = score_alone(llama, tokenizer, *question)[2]
        assert score.nll == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_half_precision_logits_are_scored_in_float32(tokenizer: Any) -> None:
    model = build_model("llama", torch.bfloat16)
    for question, score in zip(QUESTIONS, Scorer(tokenizer, 1).forced(model, QUESTIONS), strict=True):
        assert score.nll == pytest.approx(score_alone(model, tokenizer, *question)[2], rel=1e-4)


def test_no_batch_exceeds_its_token_limit(llama: Any, tokenizer: Any) -> None:
    sizes: list[torch.Size] = []

    def measure(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
        sizes.append(kwargs["input_ids"].shape)

    handle = llama.register_forward_pre_hook(measure, with_kwargs=True)
    questions = [(f"{prompt} {word}", answer) for word in ("old", "city", "sea") for prompt, answer in QUESTIONS]
    Scorer(tokenizer, 24).forced(llama, questions)
    handle.remove()
    assert sum(rows for rows, _ in sizes) == 18
    assert all(rows * width <= 24 for rows, width in sizes)
    assert max(rows for rows, _ in sizes) > 1


def test_a_question_larger_than_the_token_limit_is_scored_alone(llama: Any, tokenizer: Any) -> None:
    assert len(Scorer(tokenizer, 1).forced(llama, QUESTIONS)) == len(QUESTIONS)


def test_no_questions_give_no_scores(llama: Any, tokenizer: Any) -> None:
    assert Scorer(tokenizer).forced(llama, []) == []
    assert Scorer(tokenizer).generate(llama, [], []) == []


def test_a_repeated_question_has_the_same_score(llama: Any, tokenizer: Any) -> None:
    first, between, second = Scorer(tokenizer, 30).forced(llama, [QUESTIONS[0], QUESTIONS[2], QUESTIONS[0]])
    assert first == second != between


@pytest.mark.parametrize("edited", [False, True])
def test_answers_of_one_token_share_the_row_of_a_longer_answer(family: str, tokenizer: Any, edited: bool) -> None:
    """An answer of one token is scored at the prompt end of another row, and its score doesn't change."""
    model = build_model(family)
    if edited:
        hparams = GraceHyperParams(model_name="m", inner_params=[FAMILIES[family][1]], n_iter=30, eps=0.1)
        requests = [{"prompt": prompt, "target_new": answer} for prompt, answer in QUESTIONS[:3]]
        model, _ = apply_grace_to_model(model, tokenizer, requests, hparams)
    answers = ["Paris", "old king", "Rome", "made from green cheese", "Paris"]
    questions = [(prompt, answer) for prompt in PROMPTS for answer in answers]
    rows: list[int] = []
    handle = model.register_forward_pre_hook(lambda _, __, kw: rows.append(len(kw["input_ids"])), with_kwargs=True)
    batch = Scorer(tokenizer).forced(model, questions)
    handle.remove()
    assert sum(rows) == 2 * len(PROMPTS), "only the two long answers of each prompt should have rows"
    alone = [Scorer(tokenizer, 1).forced(model, [question])[0] for question in questions]
    assert [(s.chosen, s.target, s.nll) for s in alone] == as_rows(batch)


def test_answers_of_one_token_to_one_prompt_share_one_row(llama: Any, tokenizer: Any) -> None:
    rows: list[int] = []
    handle = llama.register_forward_pre_hook(lambda _, __, kw: rows.append(len(kw["input_ids"])), with_kwargs=True)
    questions = [(PROMPTS[0], word) for word in ("Rome", "Paris", "London")]
    scores = Scorer(tokenizer).forced(llama, questions)
    handle.remove()
    assert rows == [1]
    assert [score_alone(llama, tokenizer, *question) for question in questions] == as_rows(scores)


def test_scoring_restores_the_modes_of_all_modules(llama: Any, tokenizer: Any) -> None:
    llama.train()
    llama.model.layers[1].eval()
    before = [module.training for module in llama.modules()]
    scorer = Scorer(tokenizer)
    assert scorer.forced(llama, QUESTIONS) == scorer.forced(llama.eval(), QUESTIONS)
    llama.train()
    llama.model.layers[1].eval()
    scorer.generate(llama, PROMPTS, 1)
    assert [module.training for module in llama.modules()] == before
    assert all(p.grad is None for p in llama.parameters())


def test_dropout_is_off_while_scoring(tokenizer: Any) -> None:
    model = build_model("gpt2").train()
    scorer = Scorer(tokenizer)
    assert scorer.forced(model, QUESTIONS) == scorer.forced(model, QUESTIONS)


def test_accuracy_compares_with_the_target_and_agreement_with_choices() -> None:
    right, half = ForcedAnswer((1, 2), (1, 2), 0.1), ForcedAnswer((1, 9), (1, 2), 0.5)
    assert (right.accuracy, right.exact) == (1.0, True)
    assert (half.accuracy, half.exact) == (0.5, False)
    assert half.agreement(right) == right.agreement(half) == 0.5
    wrong = ForcedAnswer((9, 9), (1, 2), 3.0)
    assert wrong.accuracy == 0.0
    assert wrong.agreement(half) == 0.5, "agreement compares choices, not the target"
    assert wrong.agreement(wrong) == 1.0


def test_the_length_of_an_answer_is_counted_in_tokens(tokenizer: Any) -> None:
    assert Scorer(tokenizer).answer_tokens("the capital", "made from green cheese") == 4
