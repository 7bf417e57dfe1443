"""Scores of a stream of edits, each against what the unedited model said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.evaluation.metrics import mean
from easyedit_lifelong.evaluation.scoring import Forced, Scorer, starts_with_answer, starts_with_whole_answer

Question = tuple[str, str]


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
        questions = Questions.about(requests)
        parts = (*questions.kinds(), self.retention)
        answers = iter(self.scorer.forced(model, [question for part in parts for question in part]))
        edit, rephrase, locality, portability, retention = ([next(answers) for _ in part] for part in parts)
        reliability = mean(answer.accuracy for answer in edit)
        return _known(
            ERR=reliability,
            TRR=mean(answer.accuracy for answer in retention),
            reliability=reliability,
            generality=mean(answer.accuracy for answer in rephrase),
            locality=mean(
                answer.agreement(self.unedited[question])
                for question, answer in zip(questions.locality, locality, strict=True)
            ),
            portability=mean(answer.accuracy for answer in portability),
        )

    def generate(self, model: Any, questions: Sequence[Question], extra_tokens: int = 4) -> list[str]:
        """Let the model answer freely, for as many tokens as the answer has and a few more."""
        limits = [self.scorer.answer_tokens(*question) + extra_tokens for question in questions]
        return self.scorer.generate(model, [prompt for prompt, _ in questions], limits)

    def score_generation(self, model: Any, requests: Sequence[EditRequest]) -> tuple[dict[str, float], list[str]]:
        """Return the free-generation scores of these edits, and what was said to their prompts."""
        questions = Questions.about(requests)
        texts = self.generate(model, questions.edit + questions.rephrase)
        asked = len(questions.edit)
        return _known(
            generation_match=_match_rate(starts_with_answer, texts[:asked], questions.edit),
            generation_match_word=_match_rate(starts_with_whole_answer, texts[:asked], questions.edit),
            generation_match_rephrase=_match_rate(starts_with_answer, texts[asked:], questions.rephrase),
        ), texts[:asked]

    def _unedited_accuracy(self, questions: Sequence[Question]) -> float | None:
        return mean(self.unedited[question].accuracy for question in questions)


def _pairs(sets: Any) -> list[Question]:
    return [(probe.prompt, probe.answer) for probes in sets for probe in probes]


def _match_rate(
    matches: Callable[[str, str], bool], texts: Sequence[str], questions: Sequence[Question]
) -> float | None:
    return mean(matches(text, answer) for text, (_, answer) in zip(texts, questions, strict=True))


def _known(**scores: float | None) -> dict[str, float]:
    """Leave out what nothing was asked about."""
    return {name: score for name, score in scores.items() if score is not None}
