"""The records that a calibration uses: each has a subject, a paraphrase and a locality prompt."""

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
from easyedit_lifelong.plurals import counted

MIN_RECORDS = 8
"""With fewer records than this, the scores of a calibration have no meaning."""

_N_BORROWED = 2
"""How many prompts of other records a record without ``relation_specificity`` borrows."""


def subject_of(request: EditRequest) -> str:
    """Return a record's subject without surrounding spaces; empty if it has none."""
    return (request.subject or "").strip()


def usable_records(requests: Sequence[EditRequest], scorer: Scorer, model: Any) -> list[EditRequest]:
    """Return the records that have all that a calibration needs.

    Args:
        requests: records held out for the calibration.
        scorer: encodes their prompts.
        model: the model, for the length of its context.

    Raises:
        DataError: too few records are usable; the message says how many there are and what the others lack.
    """
    missing = [_missing_part(request, scorer, model) for request in requests]
    usable = [request for request, part in zip(requests, missing, strict=True) if part is None]
    if len(usable) < MIN_RECORDS:
        counts = Counter(part for part in missing if part is not None).most_common()
        left_out = "; ".join(f"{count} without {part}" for part, count in counts)
        raise DataError(
            f"{len(usable)} of {counted(len(requests), 'record')} can be used; a calibration needs {MIN_RECORDS} at "
            "least, and 100 or more for reliable scores. Each needs subject, rephrase_prompt and locality. Add such "
            "records." + (f" Left out: {left_out}." if left_out else "")
        )
    return usable


def _missing_part(request: EditRequest, scorer: Scorer, model: Any) -> str | None:
    """Return what a record lacks, for a message; None if it is usable."""
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


def add_relation_probes(requests: Sequence[EditRequest], seed: int = 0) -> tuple[list[EditRequest], int]:
    """Give every record a question about another relation of its subject.

    A record without ``relation_specificity`` borrows prompts of other records, with its own subject in place of theirs.
    It borrows only from records that share no answer with it, since a shared answer suggests the same relation. Records
    that can borrow no question are left out.

    Args:
        requests: usable records.
        seed: seed of the random choice of other records.

    Returns:
        The records with such a question, and how many of them borrowed it.

    Raises:
        DataError: too few records have such a question or can be given one.
    """
    records, n_borrowed = [], 0
    for request in requests:
        if not request.relation_specificity:
            request = dataclasses.replace(request, relation_specificity=_borrow_probes(request, requests, seed))
            n_borrowed += bool(request.relation_specificity)
        if request.relation_specificity:
            records.append(request)
    if len(records) < MIN_RECORDS:
        raise DataError(
            f"only {len(records)} of {counted(len(requests), 'record')} ask something else about their subject "
            "(relation_specificity) or can borrow such a question from a record with other answers; a calibration "
            f"needs {MIN_RECORDS}. Add records of other relations."
        )
    return records, n_borrowed


def _borrow_probes(request: EditRequest, requests: Sequence[EditRequest], seed: int) -> tuple[Probe, ...]:
    """Return prompts of records with other answers, with the request's subject in place of theirs."""
    answers = _answers(request)
    others = [other for other in requests if not answers & _answers(other)]
    random.Random(f"{seed}\x00{request.case_id}").shuffle(others)
    probes: dict[str, Probe] = {}
    for other in others:
        begin, end = subject_span(other)
        prompt = other.prompt[:begin] + subject_of(request) + other.prompt[end:]
        if prompt != request.prompt:
            probes.setdefault(prompt, Probe(prompt, other.ground_truth or other.target_new))
        if len(probes) == _N_BORROWED:
            break
    return tuple(probes.values())


def _answers(request: EditRequest) -> set[str]:
    """Return a record's target and ground truth, normalised for comparison."""
    return {answer.strip().casefold() for answer in (request.target_new, request.ground_truth) if answer}
