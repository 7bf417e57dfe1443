"""Judges of generated answers: they decide whether an answer means the same as the target.

A text comparison counts "New York City" as wrong where "New York" was wanted, and "not Paris" as right where "Paris"
was. A judge reads both. :class:`~easyedit_lifelong.registry.JudgeType` is the entry that a plugin registers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from easyedit_lifelong.evaluation.answer_matching import contains_match, exact_match


@dataclass(frozen=True)
class JudgedAnswer:
    """An answer to be judged.

    Attributes:
        prompt: the prompt.
        target: the right answer.
        output: the generated answer, up to its natural stop.
    """

    prompt: str
    target: str
    output: str


@dataclass(frozen=True)
class Verdict:
    """What a judge says about an answer.

    Attributes:
        score: from 0 (wrong) to 1 (right).
        reason: why, in a few words.
    """

    score: float
    reason: str = ""


class Judge(Protocol):
    """Judges answers."""

    def __call__(self, answers: Sequence[JudgedAnswer]) -> Sequence[Verdict]:
        """Return a verdict on each answer, in order."""


def match_judge(answers: Sequence[JudgedAnswer]) -> list[Verdict]:
    """Judge by comparison of the texts: an answer is right if it equals the target, or contains it as whole words."""
    return [_match(answer) for answer in answers]


def _match(answer: JudgedAnswer) -> Verdict:
    if exact_match(answer.output, answer.target):
        return Verdict(1.0, "equals the target")
    if contains_match(answer.output, answer.target):
        return Verdict(1.0, "contains the target")
    return Verdict(0.0, "does not contain the target")
