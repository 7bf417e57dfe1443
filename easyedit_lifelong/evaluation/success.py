"""The scores of ROME (arXiv 2202.05262) and MEMIT (arXiv 2210.07229): which of two answers is more probable.

They compare the probability P of the new answer with that of the true one. As in the authors' evaluation, P is the
exponential of the mean log-probability of an answer's tokens, so that P does not decrease with the answer's length.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.evaluation.intervals import Floats, Interval, bootstrap_of
from easyedit_lifelong.evaluation.teacher_forced import ForcedAnswer

Question = tuple[str, str]

SUCCESS = ("efficacy_success", "paraphrase_success", "neighborhood_success")
MAGNITUDE = ("efficacy_magnitude", "paraphrase_magnitude", "neighborhood_magnitude")
SCORE = "rome_score"


@dataclass(frozen=True)
class AnswerPair:
    """Two answers to one prompt, whose probabilities are compared.

    Attributes:
        prompt: the prompt.
        wanted: the answer that should be more probable.
        other: the answer that should be less probable.
    """

    prompt: str
    wanted: str
    other: str

    @property
    def questions(self) -> tuple[Question, Question]:
        """The prompt with each of the two answers."""
        return (self.prompt, self.wanted), (self.prompt, self.other)


def answer_pairs(request: EditRequest) -> tuple[list[AnswerPair], list[AnswerPair], list[AnswerPair]]:
    """Return the pairs of answers to compare on a request's prompt, on its paraphrases and on its neighbourhood.

    The neighbourhood is the request's locality prompts: the edit's new answer must not become more probable than their
    own answers. A request without a true answer (``ground_truth``) has no pairs.
    """
    new, true = request.target_new, request.ground_truth
    if true is None or true.strip() == new.strip():
        return [], [], []
    return (
        [AnswerPair(request.prompt, new, true)],
        [AnswerPair(prompt, new, true) for prompt in request.rephrase_prompts],
        [
            AnswerPair(probe.prompt, probe.answer, new)
            for probes in request.locality.values()
            for probe in probes
            if probe.answer.strip() != new.strip()
        ],
    )


def success_scores(request: EditRequest, answers: Mapping[Question, ForcedAnswer]) -> dict[str, list[float]]:
    """Return a request's success and magnitude, each averaged over the request's prompts first, as the authors do.

    Args:
        request: the request.
        answers: the model's teacher-forced answers to all questions of :func:`answer_pairs`.

    Returns:
        By metric, a list with one value; an empty list if there is nothing to compare.
    """
    scores: dict[str, list[float]] = {}
    for success, magnitude, pairs in zip(SUCCESS, MAGNITUDE, answer_pairs(request), strict=True):
        probabilities = [tuple(_probability(answers[question]) for question in pair.questions) for pair in pairs]
        scores[success] = [sum(a > b for a, b in probabilities) / len(pairs)] if pairs else []
        scores[magnitude] = [sum(a - b for a, b in probabilities) / len(pairs)] if pairs else []
    return scores


def _probability(answer: ForcedAnswer) -> float:
    """Return the probability P of an answer; 0 if its log-probability is NaN."""
    return 0.0 if math.isnan(answer.nll) else math.exp(-answer.nll)


def harmonic_score(
    by_request: Sequence[Mapping[str, Sequence[float]]], means: Mapping[str, float], suffix: str = ""
) -> tuple[str, float, Interval | None] | None:
    """Return ROME's Score, the harmonic mean of the three kinds of success, and its confidence interval.

    Args:
        by_request: the scores of each request, by metric.
        means: the mean of each metric.
        suffix: the suffix of the metrics' names: empty, or ``_before``.

    Returns:
        The Score's name, value and interval; None if one of the three metrics is missing.
    """
    names = [name + suffix for name in SUCCESS]
    if not all(name in means for name in names):
        return None
    score = _harmonic_mean(np.array([[means[name] for name in names]]))[0]
    by_kind = [[scores.get(name, ()) for name in names] for scores in by_request]
    return SCORE + suffix, float(score), bootstrap_of(by_kind, _harmonic_mean)


def _harmonic_mean(means: Floats) -> Floats:
    """Return the harmonic mean of each row: 0 if a number in the row is 0."""
    with np.errstate(divide="ignore"):
        return means.shape[1] / (1 / means).sum(axis=1)
