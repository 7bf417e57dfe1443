"""Scores of generated answers: a model's own text, compared with the target and with the unedited model's text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.evaluation.answer_matching import (
    ANSWER_TOKENS,
    Generation,
    contains_match,
    exact_match,
    natural_answer,
    natural_end,
    starts_with_answer,
    starts_with_whole_answer,
    token_f1,
    without_joiner,
)
from easyedit_lifelong.evaluation.averages import RequestScores
from easyedit_lifelong.evaluation.questions import Question, Questions, generation_questions
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.evaluation.unedited_answers import UneditedAnswers

Measure = Callable[[str, str], float]
"""A measure of a generated text, given the text and the right answer."""


class GeneratedAnswers:
    """Scores generated answers. The constructor generates the answers of the unedited model.

    Args:
        scorer: the scorer that generates the answers.
        model: the unedited model.
        requests: the requests that the unedited model answers.
        retention: held-out questions; at most as many of them are answered as requests, since generation is slow.
        f1: whether to compute F1 scores, too.
        known: the unedited model's texts that are known already, and to which new ones are added; None for none.

    Attributes:
        unedited: the unedited model's text for each question.
        retention: the held-out questions that are answered with generated text; none without ``f1``.
    """

    def __init__(
        self,
        scorer: Scorer,
        model: Any,
        requests: Sequence[EditRequest],
        retention: Sequence[Question],
        *,
        f1: bool,
        known: UneditedAnswers | None = None,
    ) -> None:
        self._scorer, self._f1 = scorer, f1
        requests = requests if scorer.generates_text else []
        self.retention = list(retention[: len(requests)]) if f1 else []
        questions = generation_questions(requests) + self.retention
        if known is None:
            self.unedited = self._texts(model, questions)
        else:
            self.unedited = known.texts(scorer, model, questions, lambda missing: self.answers(model, missing))

    def answers(self, model: Any, questions: Sequence[Question]) -> list[str]:
        """Generate a model's answers, each up to its natural stop or its limit of tokens.

        Returns:
            The generated texts, without the joiner. They can be longer than the answer: :func:`natural_answer` cuts
            them.
        """
        limits = [max(ANSWER_TOKENS, self._scorer.answer_tokens(*question) + 4) for question in questions]

        def is_complete(index: int, text: str) -> bool:
            prompt, answer = questions[index]
            return natural_end(without_joiner(text, self._scorer.joiner_of(prompt)), answer) is not None

        prompts = [prompt for prompt, _ in questions]
        texts = self._scorer.generate(model, prompts, limits, is_complete)
        return [
            without_joiner(text, self._scorer.joiner_of(prompt)) for prompt, text in zip(prompts, texts, strict=True)
        ]

    def answered_before(self, request: EditRequest) -> bool:
        """Return whether the unedited model answered the prompts of a request."""
        return all(question in self.unedited for question in generation_questions([request]))

    def score_each(self, model: Any, requests: Sequence[EditRequest]) -> tuple[list[RequestScores], list[Generation]]:
        """Score a model's generated answers to the prompts and paraphrases of requests.

        Args:
            model: the edited model.
            requests: the requests.

        Returns:
            The scores of each request (empty for a classifier, which generates nothing); and the generated texts of
            those requests that the unedited model answered, too.
        """
        if not self._scorer.generates_text:
            return [{} for _ in requests], []
        texts = self._texts(model, generation_questions(requests))
        by_request = [self.scores_of(request, texts) for request in requests]
        return by_request, [self._generation(request, texts) for request in requests if self.answered_before(request)]

    def scores_of(self, request: EditRequest, texts: Mapping[Question, str]) -> RequestScores:
        """Return a request's scores, given the generated text for each of its questions."""
        questions = Questions.about([request])
        edit, rephrase = questions.edit, questions.rephrase
        scores = {
            "generation_match": _measured(starts_with_answer, edit, texts),
            "generation_match_word": _measured(starts_with_whole_answer, edit, texts),
            "generation_match_rephrase": _measured(starts_with_answer, rephrase, texts),
            "exact_match": _measured(exact_match, edit, texts, natural=True),
            "exact_match_rephrase": _measured(exact_match, rephrase, texts, natural=True),
            "contains_match": _measured(contains_match, edit, texts, natural=True),
            "contains_match_rephrase": _measured(contains_match, rephrase, texts, natural=True),
        }
        return scores | ({"ERR_f1": _measured(token_f1, edit, texts, natural=True)} if self._f1 else {})

    def retained(self, model: Any) -> list[RequestScores]:
        """Return the F1 of a model's generated answer to each held-out question."""
        texts = self._texts(model, self.retention)
        return [self.retained_of(question, texts) for question in self.retention]

    def retained_of(self, question: Question, texts: Mapping[Question, str]) -> RequestScores:
        """Return the F1 of the text for a held-out question; empty if it is not answered with generated text."""
        return {"TRR_f1": _measured(token_f1, [question], texts, natural=True)} if question in self.retention else {}

    def _texts(self, model: Any, questions: Sequence[Question]) -> dict[Question, str]:
        """Return the generated text for each question; repeated questions are answered once."""
        distinct = list(dict.fromkeys(questions))
        return dict(zip(distinct, self.answers(model, distinct), strict=True)) if distinct else {}

    def _generation(self, request: EditRequest, texts: Mapping[Question, str]) -> Generation:
        """Return the answers to a request's prompt and paraphrases, of the unedited model and of the edited one."""
        rows = []
        for question in generation_questions([request]):
            prompt, target = question
            before, after = natural_answer(self.unedited[question], target), natural_answer(texts[question], target)
            rows.append((prompt, before, after, starts_with_whole_answer(texts[question], target)))
        (prompt, before, after, match), *rephrase = rows
        return Generation(request.case_id, prompt, request.target_new, before, after, match, tuple(rephrase))


def _measured(
    measure: Measure, questions: Sequence[Question], texts: Mapping[Question, str], *, natural: bool = False
) -> list[float]:
    """Return the measure of the text for each question; with ``natural``, of the text up to its natural stop."""
    values = []
    for question in questions:
        _, answer = question
        text = natural_answer(texts[question], answer) if natural else texts[question]
        values.append(float(measure(text, answer)))
    return values
