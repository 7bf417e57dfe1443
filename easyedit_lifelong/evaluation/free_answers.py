"""Scores of free generation: a model's own answers, compared with the right ones and the unedited model's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.evaluation.averages import RequestScores
from easyedit_lifelong.evaluation.generated import (
    ANSWER_TOKENS,
    Generation,
    contains_match,
    exact_match,
    natural_answer,
    natural_end,
    starts_with_answer,
    starts_with_whole_answer,
    token_f1,
)
from easyedit_lifelong.evaluation.questions import Question, Questions, free_questions
from easyedit_lifelong.evaluation.scorer import Scorer

Measure = Callable[[str, str], float]


class FreeAnswers:
    """Scores free answers. The unedited model answers once, when this is made.

    Args:
        scorer: generates the answers.
        model: the model, before any edit of this run.
        requests: the requests for which the unedited model answers.
        retention: held-out questions; the first of them, no more than requests, are answered with generated text.
        f1: whether answers are measured by their F1, too.

    Attributes:
        unedited: the unedited model's texts.
        retention: the held-out questions that are answered with generated text.
    """

    def __init__(
        self, scorer: Scorer, model: Any, requests: Sequence[EditRequest], retention: Sequence[Question], *, f1: bool
    ) -> None:
        self._scorer, self._f1 = scorer, f1
        requests = requests if scorer.generates_text else []
        self.retention = list(retention[: len(requests)]) if f1 else []
        self.unedited = self._texts(model, free_questions(requests) + self.retention)

    def answers(self, model: Any, questions: Sequence[Question]) -> list[str]:
        """Return a model's free answers, each until its natural stop or its limit of tokens.

        Returns:
            The whole texts; :func:`natural_answer` returns the part that is the answer.
        """
        limits = [max(ANSWER_TOKENS, self._scorer.answer_tokens(*question) + 4) for question in questions]

        def ended(index: int, text: str) -> bool:
            return natural_end(text, questions[index][1]) is not None

        return self._scorer.generate(model, [prompt for prompt, _ in questions], limits, ended)

    def known(self, request: EditRequest) -> bool:
        """Return whether the unedited model answered a request's questions."""
        return all(question in self.unedited for question in free_questions([request]))

    def score_each(self, model: Any, requests: Sequence[EditRequest]) -> tuple[list[RequestScores], list[Generation]]:
        """Return each request's scores, and the answers to its prompts.

        Requests for which the unedited model did not answer have scores, but no answer to compare with: they are
        missing in the second list. A classifier generates nothing.
        """
        if not self._scorer.generates_text:
            return [{} for _ in requests], []
        texts = self._texts(model, free_questions(requests))
        by_request = [self.scores_of(request, texts) for request in requests]
        return by_request, [self._generation(request, texts) for request in requests if self.known(request)]

    def scores_of(self, request: EditRequest, texts: Mapping[Question, str]) -> RequestScores:
        """Return a request's scores, given the texts to its questions."""
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
        """Return a model's F1 on each held-out question."""
        texts = self._texts(model, self.retention)
        return [self.retained_of(question, texts) for question in self.retention]

    def retained_of(self, question: Question, texts: Mapping[Question, str]) -> RequestScores:
        """Return the F1 of a held-out question's text; nothing if it is not answered with generated text."""
        return {"TRR_f1": _measured(token_f1, [question], texts, natural=True)} if question in self.retention else {}

    def _texts(self, model: Any, questions: Sequence[Question]) -> dict[Question, str]:
        distinct = list(dict.fromkeys(questions))
        return dict(zip(distinct, self.answers(model, distinct), strict=True)) if distinct else {}

    def _generation(self, request: EditRequest, texts: Mapping[Question, str]) -> Generation:
        def row(question: Question) -> tuple[str, str, str, bool]:
            prompt, answer = question
            before, after = (natural_answer(by[question], answer) for by in (self.unedited, texts))
            return prompt, before, after, starts_with_whole_answer(texts[question], answer)

        (prompt, before, after, match), *rephrase = (row(question) for question in free_questions([request]))
        return Generation(request.case_id, prompt, request.target_new, before, after, match, tuple(rephrase))


def _measured(
    measure: Measure, questions: Sequence[Question], texts: Mapping[Question, str], *, natural: bool = False
) -> list[float]:
    """Return a measure of each question's text, or of the text up to its natural stop."""
    found = [(texts[question], question[1]) for question in questions]
    return [float(measure(natural_answer(text, answer) if natural else text, answer)) for text, answer in found]
