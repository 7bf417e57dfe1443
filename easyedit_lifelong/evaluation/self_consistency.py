"""Self-consistency: whether the text that an edited model writes after its answer comes back to the old answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.evaluation.answer_matching import (
    Generation,
    contains_match,
    starts_with_whole_answer,
    without_joiner,
)
from easyedit_lifelong.evaluation.averages import RequestScores
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.evaluation.text_scores import ngram_entropy
from easyedit_lifelong.models.model_kinds import kind_of

CONTINUATION_TOKENS = 60
"""The largest number of tokens of a continuation."""

OLD_ANSWER, CONTINUATION_ENTROPY = SELF_CONSISTENCY = "old_answer", "continuation_entropy"
"""The scores of the self-consistency."""


class SelfConsistency:
    """Scores the greedy continuations of edited prompts. The constructor continues them on the unedited model.

    Args:
        scorer: the scorer that generates the continuations.
        model: the unedited model.
        requests: the requests whose prompts the unedited model continues.

    Raises:
        ModelError: the model generates no text.
    """

    def __init__(self, scorer: Scorer, model: Any, requests: Sequence[EditRequest]) -> None:
        if not scorer.generates_text:
            raise ModelError(
                f"the self-consistency needs a model that generates text; {type(model).__name__} is a "
                f"{kind_of(model).value}. Leave it out."
            )
        self._scorer = scorer
        self._unedited = self._continuations(model, requests)

    def score(
        self, model: Any, requests: Sequence[EditRequest], generations: Sequence[Generation]
    ) -> tuple[list[RequestScores], list[Generation]]:
        """Score a model's continuations of the prompts of requests.

        Args:
            model: the edited model.
            requests: the requests of the edits.
            generations: the generated answers to the same prompts.

        Returns:
            The scores of each request; and the generated answers together with the continuations.
        """
        texts = self._continuations(model, requests)
        by_request = [continuation_scores(request, texts[request.prompt]) for request in requests]
        return by_request, [
            replace(
                generation,
                continuation_before=self._unedited.get(generation.prompt),
                continuation_after=texts[generation.prompt],
            )
            for generation in generations
        ]

    def before(self, requests: Sequence[EditRequest]) -> list[RequestScores]:
        """Return the scores of the unedited model on those of the requests whose prompts it continued."""
        return [
            continuation_scores(request, self._unedited[request.prompt])
            for request in requests
            if request.prompt in self._unedited
        ]

    def _continuations(self, model: Any, requests: Sequence[EditRequest]) -> dict[str, str]:
        """Return a model's greedy continuation of each prompt of requests, without the joiner.

        A continuation ends at an end token, after :data:`CONTINUATION_TOKENS`, or where the model's context is full.
        """
        prompts = list(dict.fromkeys(request.prompt for request in requests))
        texts = self._scorer.generate(model, prompts, CONTINUATION_TOKENS)
        return {
            prompt: without_joiner(text, self._scorer.joiner_of(prompt))
            for prompt, text in zip(prompts, texts, strict=True)
        }


def continuation_scores(request: EditRequest, text: str) -> RequestScores:
    """Return the scores of the continuation of a request's prompt; a score that can't be measured has no value.

    Args:
        request: the request.
        text: the continuation, from the answer on.
    """
    old, entropy = old_answer_of(request), ngram_entropy(_after_answer(request, text))
    return {
        OLD_ANSWER: [] if old is None else [float(contains_match(text, old))],
        CONTINUATION_ENTROPY: [] if entropy is None else [entropy],
    }


def old_answer_of(request: EditRequest) -> str | None:
    """Return the answer of a request that a continuation should not contain; None if there is none.

    It is the ``ground_truth``, unless the new answer or the prompt contains it: then a right answer, or a text that
    repeats its prompt, contains it, too.
    """
    old = request.ground_truth
    if old is None or any(contains_match(text, old) for text in (request.target_new, request.prompt)):
        return None
    return old


def _after_answer(request: EditRequest, text: str) -> str:
    """Return a continuation without the new answer or the old one at its beginning, if it has one of them there."""
    for answer in (request.target_new, request.ground_truth):
        if answer and starts_with_whole_answer(text, answer):
            return text.lstrip()[len(answer.strip()) :]
    return text
