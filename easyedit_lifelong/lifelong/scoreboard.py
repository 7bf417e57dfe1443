"""Scores of a stream of edits, each against what the unedited model said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.evaluation.metrics import mean
from easyedit_lifelong.evaluation.scoring import Forced, Scorer, starts_with_answer, starts_with_whole_answer

Question = tuple[str, str]
RequestScores = dict[str, list[float]]
"""Scores of one request by name, one for each question of that kind."""


@dataclass
class Questions:
    """What is asked about some requests: the questions of each kind, and whose they are."""

    edit: list[Question] = field(default_factory=list)
    rephrase: list[Question] = field(default_factory=list)
    locality: list[Question] = field(default_factory=list)
    portability: list[Question] = field(default_factory=list)

    @classmethod
    def about(cls, requests: Sequence[EditRequest]) -> Questions:
        """Collect the questions about these requests, in their order."""
        questions = cls()
        for request in requests:
            questions.edit.append((request.prompt, request.target_new))
            questions.rephrase += [(prompt, request.target_new) for prompt in request.rephrase_prompts]
            questions.locality += _pairs(request.locality.values())
            questions.portability += _pairs(request.portability.values())
        return questions

    def kinds(self) -> tuple[list[Question], list[Question], list[Question], list[Question]]:
        """Return the questions of each kind."""
        return self.edit, self.rephrase, self.locality, self.portability

    def all(self) -> list[Question]:
        """Return all questions in one list."""
        return [question for kind in self.kinds() for question in kind]


class Scoreboard:
    """Scores past edits together, asking the unedited model once and for all.

    Args:
        scorer: asks the questions.
        model: the model, before any edit of this run.
        requests: all requests of the run.
        retention: held-out facts (TRR).
    """

    def __init__(self, scorer: Scorer, model: Any, requests: Sequence[EditRequest], retention: Sequence[Probe]) -> None:
        self.scorer = scorer
        self.retention = [(probe.prompt, probe.answer) for probe in retention]
        questions = Questions.about(requests)
        asked = list(
            dict.fromkeys(
                questions.edit + questions.rephrase + questions.locality + questions.portability + self.retention
            )
        )
        self.unedited: dict[Question, Forced] = dict(zip(asked, scorer.forced(model, asked), strict=True))

    def before(self, requests: Sequence[EditRequest]) -> dict[str, float]:
        """Return the unedited model's scores."""
        questions = Questions.about(requests)
        return _known(
            reliability_before=self._unedited_accuracy(questions.edit),
            generality_before=self._unedited_accuracy(questions.rephrase),
            portability_before=self._unedited_accuracy(questions.portability),
            TRR_before=self._unedited_accuracy(self.retention),
        )

    def score(self, model: Any, requests: Sequence[EditRequest]) -> dict[str, float]:
        """Return the teacher-forced scores of these edits and of what should be untouched by them."""
        by_request, retention = self.score_each(model, requests)
        scores = averages(by_request)
        return _known(ERR=scores.get("reliability"), TRR=retention) | scores

    def score_each(self, model: Any, requests: Sequence[EditRequest]) -> tuple[list[RequestScores], float | None]:
        """Return each request's teacher-forced scores, and TRR."""
        asked = [Questions.about([request]) for request in requests]
        parts = [part for questions in asked for part in questions.kinds()] + [self.retention]
        answers = iter(self.scorer.forced(model, [question for part in parts for question in part]))
        by_request: list[RequestScores] = []
        for questions in asked:
            edit, rephrase, local, portable = ([next(answers) for _ in part] for part in questions.kinds())
            by_request.append(
                {
                    "reliability": [answer.accuracy for answer in edit],
                    "generality": [answer.accuracy for answer in rephrase],
                    "locality": [
                        answer.agreement(self.unedited[question])
                        for question, answer in zip(questions.locality, local, strict=True)
                    ],
                    "portability": [answer.accuracy for answer in portable],
                }
            )
        return by_request, mean(answer.accuracy for answer in answers)

    def generate(self, model: Any, questions: Sequence[Question], extra_tokens: int = 4) -> list[str]:
        """Let the model answer freely, for as many tokens as the answer has and a few more."""
        limits = [self.scorer.answer_tokens(*question) + extra_tokens for question in questions]
        return self.scorer.generate(model, [prompt for prompt, _ in questions], limits)

    def score_generation(self, model: Any, requests: Sequence[EditRequest]) -> tuple[dict[str, float], list[str]]:
        """Return the free-generation scores of these edits, and what was said to their prompts."""
        by_request, texts = self.score_generation_each(model, requests)
        return averages(by_request), texts

    def score_generation_each(
        self, model: Any, requests: Sequence[EditRequest]
    ) -> tuple[list[RequestScores], list[str]]:
        """Return each request's free-generation scores, and what was said to its prompt."""
        asked = [Questions.about([request]) for request in requests]
        said = iter(self.generate(model, [question for one in asked for question in one.edit + one.rephrase]))
        by_request: list[RequestScores] = []
        texts = []
        for questions in asked:
            edit, rephrase = ([next(said) for _ in part] for part in (questions.edit, questions.rephrase))
            texts += edit
            by_request.append(
                {
                    "generation_match": _matches(starts_with_answer, edit, questions.edit),
                    "generation_match_word": _matches(starts_with_whole_answer, edit, questions.edit),
                    "generation_match_rephrase": _matches(starts_with_answer, rephrase, questions.rephrase),
                }
            )
        return by_request, texts

    def _unedited_accuracy(self, questions: Sequence[Question]) -> float | None:
        return mean(self.unedited[question].accuracy for question in questions)


def _pairs(sets: Any) -> list[Question]:
    return [(probe.prompt, probe.answer) for probes in sets for probe in probes]


def _matches(matches: Callable[[str, str], bool], texts: Sequence[str], questions: Sequence[Question]) -> list[float]:
    return [float(matches(text, answer)) for text, (_, answer) in zip(texts, questions, strict=True)]


def averages(by_request: Sequence[RequestScores]) -> dict[str, float]:
    """Return each score's mean over all questions; one that nothing was asked about is left out."""
    names = dict.fromkeys(name for scores in by_request for name in scores)
    return _known(**{name: mean(x for scores in by_request for x in scores.get(name, ())) for name in names})


def _known(**scores: float | None) -> dict[str, float]:
    """Leave out what nothing was asked about."""
    return {name: score for name, score in scores.items() if score is not None}
