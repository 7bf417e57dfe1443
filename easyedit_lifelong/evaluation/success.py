"""ROME's and MEMIT's measures: which of two answers is the more probable, and by how much.

They compare the probability of the new answer with that of the true one. P is the exponential of the
mean log-probability of an answer's tokens, as in the authors' evaluation, so that a longer answer isn't
the less probable for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.evaluation.forced import Forced
from easyedit_lifelong.evaluation.intervals import Floats, Interval, bootstrap_of

Question = tuple[str, str]

SUCCESS = ("efficacy_success", "paraphrase_success", "neighborhood_success")
MAGNITUDE = ("efficacy_magnitude", "paraphrase_magnitude", "neighborhood_magnitude")
SCORE = "rome_score"


@dataclass(frozen=True)
class Contest:
    """Two answers to one prompt.

    Attributes:
        prompt: what both follow.
        wanted: the answer that should be the more probable.
        other: the answer that shouldn't.
    """

    prompt: str
    wanted: str
    other: str

    @property
    def questions(self) -> tuple[Question, Question]:
        """Both answers as questions to score."""
        return (self.prompt, self.wanted), (self.prompt, self.other)


def contests(request: EditRequest) -> tuple[list[Contest], list[Contest], list[Contest]]:
    """Return what is compared on the edit's prompt, on its paraphrases and on its neighbourhood.

    The neighbourhood is the request's locality prompts, where the edit's new answer must not become more
    probable than their own. Nothing is compared for a request that doesn't say what is true.
    """
    new, true = request.target_new, request.ground_truth
    if true is None or true.strip() == new.strip():
        return [], [], []
    return (
        [Contest(request.prompt, new, true)],
        [Contest(prompt, new, true) for prompt in request.rephrase_prompts],
        [
            Contest(probe.prompt, probe.answer, new)
            for probes in request.locality.values()
            for probe in probes
            if probe.answer.strip() != new.strip()
        ],
    )


def success_scores(request: EditRequest, answers: Mapping[Question, Forced]) -> dict[str, list[float]]:
    """Return a request's success and magnitude, each averaged over its own prompts first, as the authors do.

    Args:
        request: the request.
        answers: the model's scores of all questions of :func:`contests`.

    Returns:
        One number by name, in a list; empty where there is nothing to compare.
    """
    scores: dict[str, list[float]] = {}
    for success, magnitude, several in zip(SUCCESS, MAGNITUDE, contests(request), strict=True):
        odds = [tuple(_probability(answers[question]) for question in one.questions) for one in several]
        scores[success] = [sum(a > b for a, b in odds) / len(odds)] if odds else []
        scores[magnitude] = [sum(a - b for a, b in odds) / len(odds)] if odds else []
    return scores


def _probability(answer: Forced) -> float:
    """Return an answer's probability; 0 if the loss is NaN."""
    return 0.0 if math.isnan(answer.nll) else math.exp(-answer.nll)


def harmonic_score(
    by_request: Sequence[Mapping[str, Sequence[float]]], means: Mapping[str, float], suffix: str = ""
) -> tuple[str, float, Interval | None] | None:
    """Return ROME's Score, the harmonic mean of the three kinds of success, and its interval.

    Args:
        by_request: each request's scores by name.
        means: their means by name.
        suffix: behind the names.

    Returns:
        Name, score and interval; None if one of the three is missing.
    """
    names = [name + suffix for name in SUCCESS]
    if not all(name in means for name in names):
        return None
    score = _harmonic_mean(np.array([[means[name] for name in names]]))[0]
    by_kind = [[scores.get(name, ()) for name in names] for scores in by_request]
    return SCORE + suffix, float(score), bootstrap_of(by_kind, _harmonic_mean)


def _harmonic_mean(means: Floats) -> Floats:
    """Return each row's harmonic mean: 0 if any of its numbers is 0."""
    with np.errstate(divide="ignore"):
        return means.shape[1] / (1 / means).sum(axis=1)
