"""Datasets of ROME's authors and their successors: a record has its edits in ``requested_rewrite``.

CounterFact (Meng et al., 2022) has one edit in each record, MQuAKE (Zhong et al., 2023) several.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from easyedit_lifelong.data.reading import ReadResult, read_each
from easyedit_lifelong.data.record_fields import FieldNames, RecordFields
from easyedit_lifelong.data.request import EditRequest, Probe

MULTI_HOP = "multi_hop"
"""The portability set with MQuAKE's questions, which ask the same in other words."""

_REWRITE: FieldNames = {
    "prompt": ("prompt",),
    "target_new": ("target_new",),
    "ground_truth": ("target_true",),
    "subject": ("subject",),
    "question": ("question",),
    "relation": ("relation_id",),
}
_COUNTERFACT: FieldNames = {
    "case_id": ("case_id",),
    "rewrite": ("requested_rewrite",),
    "rephrase_prompt": ("paraphrase_prompts",),
    "neighborhood": ("neighborhood_prompts",),
    "attribute": ("attribute_prompts",),
    "generation": ("generation_prompts",),
}
_MQUAKE: FieldNames = {
    "case_id": ("case_id",),
    "rewrite": ("requested_rewrite",),
    "questions": ("questions",),
    "answer": ("new_answer",),
    "old_answer": ("answer",),
    "aliases": ("new_answer_alias",),
    "single_hops": ("new_single_hops",),
}


def read_rome_counterfact(path: Path) -> Iterator[ReadResult]:
    """Read ROME's and MEMIT's own CounterFact files (``counterfact.json``, ``multi_counterfact.json``).

    The neighbourhood prompts are a locality set; their answer is the edit's true one. ``attribute_prompts`` and
    ``generation_prompts``, which no score of this package uses, aren't read.

    Raises:
        DataError: the file can't be read.
    """
    return read_each(path, _counterfact_request, _COUNTERFACT)


def read_mquake(path: Path) -> Iterator[ReadResult]:
    """Read a file of MQuAKE, whose records have several edits and three multi-hop questions.

    Each edit is a request. The requests of case 7 have the case_ids ``7``, ``7#1``, ``7#2``, …, as a fact's rephrasings
    have when they are edits. The multi-hop questions follow from all edits of a case, and so are the portability set
    ``multi_hop`` of the last of them. ``question`` of an edit is a paraphrase of its prompt.

    Raises:
        DataError: the file can't be read.
    """
    return read_each(path, _mquake_requests, _MQUAKE)


def _counterfact_request(fields: RecordFields, index: int) -> list[EditRequest]:
    """Return the request of a CounterFact record."""
    name, rewrite = fields.find("rewrite")
    if rewrite is None:
        raise fields.error(name, "is missing")
    request = _rewrite_request(fields, name, rewrite, fields.case_id(index))
    neighbors = fields.texts("neighborhood")
    if neighbors and request.ground_truth is None:
        raise fields.error(f"{name}.target_true", "is missing; it is the answer of the neighborhood_prompts")
    probes = tuple(Probe(prompt, request.ground_truth or "") for prompt in neighbors)
    return [
        dataclasses.replace(
            request,
            rephrase_prompts=fields.texts("rephrase_prompt"),
            locality=MappingProxyType({"neighborhood": probes} if probes else {}),
        )
    ]


def _mquake_requests(fields: RecordFields, index: int) -> list[EditRequest]:
    """Return the requests of a MQuAKE record, one for each of its edits."""
    name, rewrites = fields.find("rewrite")
    if not isinstance(rewrites, list) or not rewrites:
        raise fields.error(name, "must be a list of edits")
    case_id, requests = fields.case_id(index), []
    for number, rewrite in enumerate(rewrites):
        own_id = case_id if number == 0 else f"{case_id}#{number}"
        request = _rewrite_request(fields, f"{name}[{number}]", rewrite, own_id)
        requests.append(request)
    questions = fields.texts("questions")
    if questions:
        answer = fields.required_text("answer").strip()
        probes = tuple(Probe(question, answer) for question in questions)
        requests[-1] = dataclasses.replace(requests[-1], portability=MappingProxyType({MULTI_HOP: probes}))
    return requests


def _rewrite_request(fields: RecordFields, name: str, rewrite: Any, case_id: int | str) -> EditRequest:
    """Return the request of one edit: its prompt with the subject, its answers and its question."""
    if not isinstance(rewrite, Mapping):
        raise fields.error(name, "must be an object with prompt, subject and target_new")
    texts = {key: _text_of(value) for key, value in rewrite.items()}
    edit = RecordFields(texts, f"{fields.where}, {name}", _REWRITE, fields.notes)
    template, subject = edit.required_text("prompt"), edit.required_text("subject")
    if "{}" not in template:
        raise edit.error("prompt", "must contain {} where the subject belongs")
    return EditRequest(
        case_id,
        template.replace("{}", subject),
        edit.required_text("target_new").strip(),
        subject=subject,
        ground_truth=edit.ground_truth(),
        rephrase_prompts=edit.texts("question"),
        source=fields.where,
    )


def _text_of(value: Any) -> Any:
    """Return the text of ``{"str": text, "id": …}``, as the files write targets; return any other value unchanged."""
    return value.get("str") if isinstance(value, Mapping) else value
