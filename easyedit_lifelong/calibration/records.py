"""The records that a calibration works on: facts with a subject, a paraphrase and a fact that must not change."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.data.subjects import find_subject
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.methods.shared.subject_positions import subject_span
from easyedit_lifelong.runs.checks import check_fit

LEAST = 8
"""Records below which nothing can be told."""

_MADE = 2
"""Prompts on another relation that are made for a record without any."""


def subject_of(request: EditRequest) -> str:
    """Return a record's subject, without spaces around it."""
    return (request.subject or "").strip()


def usable_records(requests: Sequence[EditRequest], scorer: Scorer, model: Any) -> list[EditRequest]:
    """Return the records that have all that a calibration asks of.

    Args:
        requests: records that were held aside.
        scorer: knows the model's tokens.
        model: the model, for its context.

    Raises:
        DataError: there are too few; the message says how many there are and what the others lack.
    """
    usable, lacking = [], Counter[str]()
    for request in requests:
        problem = _problem(request)
        if problem is None:
            try:
                check_fit([request], scorer, model)
            except DataError:
                problem = "prompts that fit into the model's context"
        if problem is None:
            usable.append(request)
        else:
            lacking[problem] += 1
    if len(usable) < LEAST:
        told = "; ".join(f"{count} without {problem}" for problem, count in lacking.most_common())
        raise DataError(
            f"{len(usable)} of {len(requests)} records can be used; a calibration needs {LEAST} at least, and 100 or "
            f"more to be worth much. Each needs subject, rephrase_prompt and locality."
            + (f" Left out: {told}." if told else "")
        )
    return usable


def _problem(request: EditRequest) -> str | None:
    """Say what a record lacks; None if nothing."""
    if not subject_of(request):
        return "subject"
    if find_subject(request.prompt, subject_of(request)) is None:
        return "its subject in the prompt"
    if not any(find_subject(prompt, subject_of(request)) for prompt in request.rephrase_prompts):
        return "rephrase_prompt" if not request.rephrase_prompts else "its subject in rephrase_prompt"
    if not any(request.locality.values()):
        return "locality"
    return None


def with_other_relations(requests: Sequence[EditRequest], seed: int = 0) -> tuple[list[EditRequest], int]:
    """Return records of which each asks something else about its subject, too; and for how many that was made up.

    A record without ``relation_specificity`` gets other records' prompts with its own subject put in. Only records
    that have no answer in common with it lend theirs: the others might ask the same thing in other words.

    Args:
        requests: usable records.
        seed: of the choice.

    Raises:
        DataError: too few are left that have such a question, or for which one could be made.
    """
    found, made = [], 0
    for request in requests:
        if not request.relation_specificity:
            request = dataclasses.replace(request, relation_specificity=_probes(request, requests, seed))
            made += bool(request.relation_specificity)
        if request.relation_specificity:
            found.append(request)
    if len(found) < LEAST:
        raise DataError(
            f"only {len(found)} of {len(requests)} records ask something else about their subject "
            "(relation_specificity), or could be made to; their answers are too much alike for that. Take records of "
            "several relations."
        )
    return found, made


def _probes(request: EditRequest, requests: Sequence[EditRequest], seed: int) -> tuple[Probe, ...]:
    own = _answers(request)
    others = [other for other in requests if not own & _answers(other)]
    random.Random(f"{seed}\x00{request.case_id}").shuffle(others)
    probes: dict[str, Probe] = {}
    for other in others:
        begin, end = subject_span(other)
        prompt = other.prompt[:begin] + subject_of(request) + other.prompt[end:]
        if prompt != request.prompt:
            probes.setdefault(prompt, Probe(prompt, other.ground_truth or other.target_new))
        if len(probes) == _MADE:
            break
    return tuple(probes.values())


def _answers(request: EditRequest) -> set[str]:
    return {answer.strip().casefold() for answer in (request.target_new, request.ground_truth) if answer}
