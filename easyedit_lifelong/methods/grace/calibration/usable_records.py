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
from easyedit_lifelong.evaluation.context_fit import check_fit
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.methods.shared.subject_positions import subject_span

LEAST = 8
"""With fewer records than this, a calibration says nothing."""

_MADE = 2
"""Prompts on another relation that are made for a record without any."""


def subject_of(request: EditRequest) -> str:
    """Return a record's subject, without spaces around it."""
    return (request.subject or "").strip()


def usable_records(requests: Sequence[EditRequest], scorer: Scorer, model: Any) -> list[EditRequest]:
    """Return the records that have all that a calibration needs.

    Args:
        requests: records that nothing else is judged by.
        scorer: encodes their prompts.
        model: the model, for the length of its context.

    Raises:
        DataError: there are too few; the message says how many there are and what the others lack.
    """
    lacks = [_lack(request, scorer, model) for request in requests]
    usable = [request for request, lack in zip(requests, lacks, strict=True) if lack is None]
    if len(usable) < LEAST:
        counts = Counter(lack for lack in lacks if lack is not None).most_common()
        left_out = "; ".join(f"{count} without {lack}" for lack, count in counts)
        raise DataError(
            f"{len(usable)} of {len(requests)} records can be used; a calibration needs {LEAST} at least, and 100 or "
            f"more to be worth much. Each needs subject, rephrase_prompt and locality."
            + (f" Left out: {left_out}." if left_out else "")
        )
    return usable


def _lack(request: EditRequest, scorer: Scorer, model: Any) -> str | None:
    """Return what a record lacks; None if nothing."""
    subject = subject_of(request)
    if not subject:
        return "subject"
    if find_subject(request.prompt, subject) is None:
        return "its subject in the prompt"
    if not any(find_subject(prompt, subject) for prompt in request.rephrase_prompts):
        return "rephrase_prompt" if not request.rephrase_prompts else "its subject in rephrase_prompt"
    if not any(request.locality.values()):
        return "locality"
    try:
        check_fit([request], scorer, model)
    except DataError:
        return "prompts that fit into the model's context"
    return None


def with_other_relations(requests: Sequence[EditRequest], seed: int = 0) -> tuple[list[EditRequest], int]:
    """Return records that all have a question about another relation of their subject, and how many of them are made.

    A record without ``relation_specificity`` gets other records' prompts with its subject put in. Only records that
    have no answer in common with it lend their prompts: the others might ask about the same relation in other words.

    Args:
        requests: usable records.
        seed: of the choice of records.

    Raises:
        DataError: too few are left that have such a question, or for which one can be made.
    """
    found, made = [], 0
    for request in requests:
        if not request.relation_specificity:
            request = dataclasses.replace(request, relation_specificity=_made_probes(request, requests, seed))
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


def _made_probes(request: EditRequest, requests: Sequence[EditRequest], seed: int) -> tuple[Probe, ...]:
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
