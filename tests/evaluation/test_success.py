"""The success and magnitude scores of ROME and MEMIT equal values computed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.evaluation.success import AnswerPair, answer_pairs, success_scores
from easyedit_lifelong.evaluation.teacher_forced import ForcedAnswer
from tests.support.tiny_models import build_model

REQUEST = EditRequest(
    "fr",
    "France is",
    "Rome",
    ground_truth="Paris",
    rephrase_prompts=("France", "in France"),
    locality={"near": (Probe("Peru is", "Lima"), Probe("Italy is", "Rome")), "far": (Probe("sea is", "blue"),)},
)


def answer_with_probability(p: float) -> ForcedAnswer:
    """Return an answer with this probability for each token."""
    return ForcedAnswer((1,), (1,), -math.log(p))


def test_target_and_truth_are_compared_on_prompt_rephrasings_and_neighbours() -> None:
    efficacy, paraphrase, neighborhood = answer_pairs(REQUEST)
    assert efficacy == [AnswerPair("France is", "Rome", "Paris")]
    assert paraphrase == [AnswerPair("France", "Rome", "Paris"), AnswerPair("in France", "Rome", "Paris")]
    assert neighborhood == [AnswerPair("Peru is", "Lima", "Rome"), AnswerPair("sea is", "blue", "Rome")], (
        "a neighbour whose true answer is the target is compared with itself"
    )


@pytest.mark.parametrize("truth", [None, "Rome", " Rome "])
def test_nothing_is_compared_without_a_different_true_answer(truth: str | None) -> None:
    assert answer_pairs(EditRequest(0, "France is", "Rome", ground_truth=truth)) == ([], [], [])


def test_scores_equal_values_computed_by_hand() -> None:
    answers = {
        ("France is", "Rome"): answer_with_probability(0.6),
        ("France is", "Paris"): answer_with_probability(0.1),
        ("France", "Rome"): answer_with_probability(0.2),
        ("France", "Paris"): answer_with_probability(0.5),
        ("in France", "Rome"): answer_with_probability(0.4),
        ("in France", "Paris"): answer_with_probability(0.3),
        ("Peru is", "Lima"): answer_with_probability(0.7),
        ("Peru is", "Rome"): answer_with_probability(0.2),
        ("sea is", "blue"): answer_with_probability(0.25),
        ("sea is", "Rome"): answer_with_probability(0.25),
    }
    assert success_scores(REQUEST, answers) == {
        "efficacy_success": [1.0],
        "efficacy_magnitude": [pytest.approx(0.5)],
        "paraphrase_success": [0.5],
        "paraphrase_magnitude": [pytest.approx((-0.3 + 0.1) / 2)],
        "neighborhood_success": [0.5],  # a tie is no success
        "neighborhood_magnitude": [pytest.approx((0.5 + 0) / 2)],
    }


def test_a_model_with_nan_likelihoods_scores_zero() -> None:
    questions = [question for kind in answer_pairs(REQUEST) for contest in kind for question in contest.questions]
    scores = success_scores(REQUEST, dict.fromkeys(questions, ForcedAnswer((1,), (1,), math.nan)))
    assert scores == {name: [0.0] for name in scores}
    assert len(scores) == 6


def test_without_comparisons_there_are_no_scores() -> None:
    assert set(map(tuple, success_scores(EditRequest(0, "p", "a"), {}).values())) == {()}


def test_longer_answers_are_scored_by_their_mean_log_probability(llama: Any, tokenizer: Any) -> None:
    """The authors average the log-probabilities of the tokens; here each token has a forward pass."""
    request = EditRequest(0, "the capital of France is", "green cheese moon", ground_truth="Rome Berlin")

    def probability(answer: str) -> float:
        ids, total = list(tokenizer(request.prompt)["input_ids"]), 0.0
        words = tokenizer(answer)["input_ids"]
        for token in words:
            with torch.no_grad():
                logits = llama(input_ids=torch.tensor([ids])).logits[0, -1].double()
            total += float(logits.log_softmax(dim=-1)[token])
            ids.append(token)
        return math.exp(total / len(words))

    questions = list(answer_pairs(request)[0][0].questions)
    answers = dict(zip(questions, Scorer(tokenizer).forced(llama, questions), strict=True))
    new, true = probability("green cheese moon"), probability("Rome Berlin")
    scores = success_scores(request, answers)
    assert scores["efficacy_magnitude"] == [pytest.approx(new - true, rel=1e-3, abs=1e-7)]
    assert scores["efficacy_success"] == [float(new > true)]


@pytest.mark.parametrize("family", ["gpt2", "qwen2"])
def test_the_answer_whose_logit_is_raised_wins(family: str, tokenizer: Any) -> None:
    model, request = build_model(family), EditRequest(0, "who wrote Hamlet", "Rome", ground_truth="Paris")
    questions = list(answer_pairs(request)[0][0].questions)

    def efficacy() -> float:
        answers = dict(zip(questions, Scorer(tokenizer).forced(model, questions), strict=True))
        return success_scores(request, answers)["efficacy_success"][0]

    (new,), (true,) = (tokenizer(word)["input_ids"] for word in ("Rome", "Paris"))
    for winner, expected in ((new, 1.0), (true, 0.0)):

        def push(_: Any, __: Any, logits: torch.Tensor, winner: int = winner) -> torch.Tensor:
            return logits + 50.0 * torch.nn.functional.one_hot(torch.tensor(winner), logits.shape[-1])

        handle = model.get_output_embeddings().register_forward_hook(push)
        assert efficacy() == expected
        handle.remove()
