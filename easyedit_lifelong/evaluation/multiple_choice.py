"""Multiple-choice accuracy by log-likelihood, as lm-evaluation-harness computes it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

from easyedit_lifelong.data.multiple_choice import MultipleChoiceItem
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.evaluation.averages import RequestScores, Scores, averages, averages_with_intervals
from easyedit_lifelong.evaluation.questions import Question
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.evaluation.teacher_forced import ForcedAnswer
from easyedit_lifelong.evaluation.unedited_answers import UneditedAnswers
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.model_kinds import ModelKind, kind_of

CAPABILITY, CAPABILITY_NORM = "capability", "capability_norm"
BY_SUBJECT = "capability_by_subject"
"""The key of the scores of each subject, in a line of ``metrics.jsonl`` and in ``summary.json``."""


class MultipleChoiceScores:
    """Scores a model on multiple-choice questions.

    A model's answer is the choice with the largest log-likelihood (``capability``), or with the largest log-likelihood
    per character (``capability_norm``): lm-evaluation-harness's ``acc`` and ``acc_norm``. As there, prompt and choice
    are one row, and nothing tells an edited model where the prompt ends.

    Args:
        tokenizer: the model's tokenizer.
        model: the unedited model.
        items: the questions; without any, there are no scores.
        known: the unedited model's answers that are known already, and to which new ones are added; None for none.

    Attributes:
        unedited: the scores of the unedited model.
    """

    def __init__(
        self,
        tokenizer: Any,
        model: Any,
        items: Sequence[MultipleChoiceItem],
        known: UneditedAnswers | None = None,
    ) -> None:
        self._scorer, self._items = Scorer(tokenizer, marks_prompts=False), list(items)
        if known is None or not self._items:
            self.unedited = self.score(model)
        else:
            questions = self._questions()
            answers = known.forced(self._scorer, model, questions)
            self.unedited = self._scores([answers[question] for question in questions])

    def score(self, model: Any) -> Scores:
        """Return the accuracies over all questions, and under :data:`BY_SUBJECT` those over each subject's.

        Confidence intervals are over the questions.
        """
        return self._scores(self._scorer.forced(model, self._questions())) if self._items else Scores()

    def log_likelihoods(self, model: Any) -> list[list[float]]:
        """Return the log-likelihood of each choice of each question, in nats, summed over the choice's tokens."""
        return self._log_likelihoods(self._scorer.forced(model, self._questions()))

    def _scores(self, answers: Sequence[ForcedAnswer]) -> Scores:
        """Return the accuracies, given the answer to each question with each choice."""
        values = self._log_likelihoods(answers)
        by_item = [_accuracies(item, of_item) for item, of_item in zip(self._items, values, strict=True)]
        by_subject: dict[str, list[RequestScores]] = {}
        for item, accuracies in zip(self._items, by_item, strict=True):
            if item.subject is not None:
                by_subject.setdefault(item.subject, []).append(accuracies)
        scores = averages_with_intervals(by_item)
        if by_subject:
            scores.further[BY_SUBJECT] = {
                subject: {"questions": len(entries), **averages(entries)} for subject, entries in by_subject.items()
            }
        return scores

    def _log_likelihoods(self, answers: Iterable[ForcedAnswer]) -> list[list[float]]:
        """Return the log-likelihood of each choice of each question, given the answers to :meth:`_questions`."""
        remaining = iter(answers)
        return [
            [-answer.nll * len(answer.target) for answer in itertools.islice(remaining, len(item.choices))]
            for item in self._items
        ]

    def _questions(self) -> list[Question]:
        """Return every question with each of its choices."""
        return [question for item in self._items for question in _questions(item)]


def check_choices(items: Sequence[MultipleChoiceItem], tokenizer: Any, model: Any) -> None:
    """Check that a model can be scored on multiple-choice questions.

    Args:
        items: the questions; without any, every model can.
        tokenizer: the model's tokenizer.
        model: the model.

    Raises:
        DataError: the model is not a causal language model; or a question with a choice can't be encoded, or exceeds
            the model's context.
    """
    if items and kind_of(model) is not ModelKind.CAUSAL:
        raise DataError(
            f"multiple-choice questions need a causal language model; {type(model).__name__} is a "
            f"{kind_of(model).value}. Leave them out."
        )
    limit, scorer = context_length(model), Scorer(tokenizer, marks_prompts=False)
    for number, item in enumerate(items):
        try:
            longest = max(scorer.encode(*question).length for question in _questions(item))
        except DataError as error:
            raise DataError(f"capability, question {number}: {error}") from error
        if limit is not None and longest > limit:
            raise DataError(
                f"capability, question {number}: with a choice it has {longest} tokens, the model's context is "
                f"{limit}. Shorten it or leave it out."
            )


def with_before(by_subject: dict[str, dict[str, float]], before: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Return the scores of each subject together with those of the unedited model, as ``…_before``."""
    return {
        subject: {
            **scores,
            **{f"{name}_before": before[subject][name] for name in (CAPABILITY, CAPABILITY_NORM)},
        }
        for subject, scores in by_subject.items()
    }


def _questions(item: MultipleChoiceItem) -> list[Question]:
    """Return the prompt with each choice. A space precedes every choice, whatever its first character is."""
    return [(item.prompt, f" {choice}") for choice in item.choices]


def _accuracies(item: MultipleChoiceItem, values: Sequence[float]) -> RequestScores:
    """Return whether the right choice has the largest log-likelihood, and the largest per character.

    A model that gives NaN has no answer. Of equal choices, the first counts.
    """
    per_character = [value / len(choice) for value, choice in zip(values, item.choices, strict=True)]
    return {
        name: [float(not any(map(math.isnan, of_choices)) and of_choices.index(max(of_choices)) == item.answer)]
        for name, of_choices in ((CAPABILITY, values), (CAPABILITY_NORM, per_character))
    }
