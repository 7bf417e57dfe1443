"""Carry-over: whether an edit also answers in the other form, in a chat or as a plain prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.evaluation.answer_matching import contains_match, natural_answer, starts_with_answer
from easyedit_lifelong.evaluation.averages import RequestScores
from easyedit_lifelong.evaluation.chat_requests import ChatSettings
from easyedit_lifelong.evaluation.context_fit import AnsweredPrompt, check_texts_fit
from easyedit_lifelong.evaluation.generated_answers import GeneratedAnswers
from easyedit_lifelong.evaluation.questions import Question
from easyedit_lifelong.evaluation.scorers import scorer_for
from easyedit_lifelong.models.chat_form import ChatForm, check_can_chat

CHAT, PLAIN = "chat", "plain"
"""The two forms of a prompt, as they begin the names of scores."""

MEASURES = ("reliability", "generation_match", "contains_match")
"""What is measured in the other form; see the metrics of these names."""

CARRY_OVER = tuple(f"{form}_{measure}" for form in (CHAT, PLAIN) for measure in MEASURES)
"""The scores of the carry-over."""


class CarryOver:
    """Scores edits in the form in which they were not made. The constructor scores the unedited model.

    Args:
        model: the unedited model.
        tokenizer: its tokenizer.
        requests: the requests on which the unedited model is scored.
        chat: the chat form of the requests; None if they are plain prompts, which are then asked in a chat with the
            template's default system message.
        joiner: what stands between prompts and answers; None: the texts, or the chat template, decide.

    Raises:
        DataError: a prompt in the other form, with its target, exceeds the model's context.
        ModelError: the model can't chat.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        requests: Sequence[EditRequest],
        chat: ChatSettings | None,
        joiner: str | None = None,
    ) -> None:
        check_can_chat(model)
        self._form = ChatForm(tokenizer) if chat is None else None
        self._name = PLAIN if self._form is None else CHAT
        if self._form is not None and joiner is None:
            joiner = self._form.joiner
        self._scorer = scorer_for(model, tokenizer, joiner)
        self._answers = GeneratedAnswers(self._scorer, model, [], [], f1=False)
        questions = [self._question(request) for request in requests]
        answer_name = "its answer in a chat" if self._form is not None else "its answer as a plain prompt"
        check_texts_fit(
            (
                AnsweredPrompt(request.where, "prompt", *question, answer_name)
                for request, question in zip(requests, questions, strict=True)
            ),
            self._scorer,
            model,
        )
        self._unedited = dict(zip(questions, self.score(model, requests), strict=True))

    def score(self, model: Any, requests: Sequence[EditRequest]) -> list[RequestScores]:
        """Return each request's scores on its prompt in the other form.

        Args:
            model: the edited model.
            requests: the requests of the edits.
        """
        questions = [self._question(request) for request in requests]
        texts = self._answers.answers(model, questions)
        forced = self._scorer.forced(model, questions)
        by_request = []
        for (_, target), answer, text in zip(questions, forced, texts, strict=True):
            contains = contains_match(natural_answer(text, target), target)
            values = (answer.accuracy, float(starts_with_answer(text, target)), float(contains))
            by_request.append(
                {f"{self._name}_{measure}": [value] for measure, value in zip(MEASURES, values, strict=True)}
            )
        return by_request

    def before(self, requests: Sequence[EditRequest]) -> list[RequestScores]:
        """Return the scores of the unedited model on those of the requests that it was scored on."""
        questions = [self._question(request) for request in requests]
        return [self._unedited[question] for question in questions if question in self._unedited]

    def _question(self, request: EditRequest) -> Question:
        """Return the prompt of a request in the other form, with its target."""
        prompt = request.question if self._form is None else self._form.prompt(request.prompt)
        return prompt, request.target_new
