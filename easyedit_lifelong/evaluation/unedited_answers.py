"""The answers of an unedited model, for several runs on the same questions: each question is answered once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

from easyedit_lifelong.evaluation.questions import Question
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.evaluation.teacher_forced import ForcedAnswer, key_of
from easyedit_lifelong.models.devices import device_of
from easyedit_lifelong.models.fingerprint import model_fingerprint

Answer = TypeVar("Answer", ForcedAnswer, str)


class UneditedAnswers:
    """Stores answers of unedited models in memory.

    An answer is used again only for the same weights, device, kind of scorer, question, tokens and joiner.
    """

    def __init__(self) -> None:
        self._forced: dict[Hashable, ForcedAnswer] = {}
        self._texts: dict[Hashable, str] = {}

    def forced(self, scorer: Scorer, model: Any, questions: Sequence[Question]) -> dict[Question, ForcedAnswer]:
        """Return the model's teacher-forced answer to each question.

        Args:
            scorer: runs the model on questions that are not stored.
            model: the unedited model.
            questions: the questions; repeated ones are answered once.

        Raises:
            ModelError: the values of the model's weights are not available.
        """
        return _completed(self._forced, scorer, model, questions, lambda missing: scorer.forced(model, missing))

    def texts(
        self,
        scorer: Scorer,
        model: Any,
        questions: Sequence[Question],
        generate: Callable[[Sequence[Question]], list[str]],
    ) -> dict[Question, str]:
        """Return the model's generated text for each question.

        Args:
            scorer: encodes the questions.
            model: the unedited model.
            questions: the questions; repeated ones are answered once.
            generate: generates the text for each question that is not stored.

        Raises:
            ModelError: the values of the model's weights are not available.
        """
        return _completed(self._texts, scorer, model, questions, generate)


def _completed(
    stored: dict[Hashable, Answer],
    scorer: Scorer,
    model: Any,
    questions: Sequence[Question],
    answer: Callable[[Sequence[Question]], Sequence[Answer]],
) -> dict[Question, Answer]:
    """Return the answer to each question, after those that are not stored yet were computed and stored."""
    weights, device = model_fingerprint(model), str(device_of(model))
    kind = (type(scorer).__qualname__, scorer.marks_prompts)
    keys: dict[Question, Hashable] = {
        question: (weights, device, kind, question, key_of(scorer.encode(*question)), scorer.joiner_of(question[0]))
        for question in questions
    }
    missing = [question for question, key in keys.items() if key not in stored]
    if missing:
        stored.update(zip((keys[question] for question in missing), answer(missing), strict=True))
    return {question: stored[key] for question, key in keys.items()}
