"""The questions that requests are scored on: prompts with an answer, by kind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.evaluation.success import answer_pairs

Question = tuple[str, str]
"""A prompt and an answer."""


@dataclass
class Questions:
    """The questions of some requests, by kind.

    Attributes:
        edit: prompts, with the target.
        rephrase: paraphrases, with the target.
        locality: locality prompts, with their answers.
        relation_specificity: other questions about the edited subjects, with their answers.
        portability: portability prompts, with their answers.
    """

    edit: list[Question] = field(default_factory=list)
    rephrase: list[Question] = field(default_factory=list)
    locality: list[Question] = field(default_factory=list)
    relation_specificity: list[Question] = field(default_factory=list)
    portability: list[Question] = field(default_factory=list)

    @classmethod
    def about(cls, requests: Iterable[EditRequest]) -> Questions:
        """Return the questions of these requests, in the requests' order."""
        questions = cls()
        for request in requests:
            questions.edit.append((request.prompt, request.target_new))
            questions.rephrase += [(prompt, request.target_new) for prompt in request.rephrase_prompts]
            questions.locality += _pairs(request.locality.values())
            questions.relation_specificity += _pairs([request.relation_specificity])
            questions.portability += _pairs(request.portability.values())
        return questions

    def all(self) -> list[Question]:
        """Return all questions in one list."""
        return self.edit + self.rephrase + self.locality + self.relation_specificity + self.portability


def compared_questions(requests: Iterable[EditRequest]) -> list[Question]:
    """Return the questions whose answers ROME's scores compare."""
    pairs = [pair for request in requests for pairs_of_kind in answer_pairs(request) for pair in pairs_of_kind]
    return [question for pair in pairs for question in pair.questions]


def generation_questions(requests: Iterable[EditRequest]) -> list[Question]:
    """Return the questions that are answered with generated text: each request's prompt, then its paraphrases."""
    by_request = [Questions.about([request]) for request in requests]
    return [question for questions in by_request for question in questions.edit + questions.rephrase]


def _pairs(probe_sets: Iterable[Sequence[Probe]]) -> list[Question]:
    """Return the prompts and answers of sets of probes."""
    return [(probe.prompt, probe.answer) for probes in probe_sets for probe in probes]
