"""FEVER (Thorne et al., 2018): claims with a label. The edit flips the label."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

from easyedit_lifelong.data.reading import ReadResult, read_each
from easyedit_lifelong.data.record_fields import FieldNames, RecordFields
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import did_you_mean

PROMPT = "Is this claim true or false? {claim} Answer:"
"""The prompt that asks a causal model about a claim."""

WORDS = MappingProxyType({"SUPPORTS": "True", "REFUTES": "False"})
"""The labels as words for a causal model."""

_FIELDS: FieldNames = {
    "case_id": ("id",),
    "claim": ("claim", "input"),
    "label": ("label", "output"),
    "rephrase_prompt": ("rephrase", "filtered_rephrases"),
}


def read_fever(path: Path) -> Iterator[ReadResult]:
    """Read FEVER for a causal model: the prompt asks whether the claim is true, and the target is the wrong answer.

    The files of FEVER (``claim``, ``label``) and of KILT (``input``, ``output``) can be read. Claims without enough
    evidence have no label that can be flipped.

    Raises:
        DataError: the file can't be read.
    """
    return read_each(path, _verbalised_request, _FIELDS)


def read_fever_labels(path: Path) -> Iterator[ReadResult]:
    """Read FEVER for a classifier: the prompt is the claim, and the target is the flipped label.

    Raises:
        DataError: the file can't be read.
    """
    return read_each(path, _labelled_request, _FIELDS)


def _verbalised_request(fields: RecordFields, index: int) -> list[EditRequest]:
    """Return the request of a claim for a causal model."""
    claim, label = fields.required_text("claim").strip(), _label(fields)
    rephrasings = tuple(PROMPT.format(claim=text) for text in fields.texts("rephrase_prompt"))
    prompt, old, new = PROMPT.format(claim=claim), WORDS[label], WORDS[_flipped(label)]
    return [EditRequest(fields.case_id(index), prompt, new, None, old, rephrasings, source=fields.where)]


def _labelled_request(fields: RecordFields, index: int) -> list[EditRequest]:
    """Return the request of a claim for a classifier."""
    claim, label = fields.required_text("claim"), _label(fields)
    rephrasings = fields.texts("rephrase_prompt")
    return [
        EditRequest(
            fields.case_id(index),
            claim,
            _flipped(label),
            ground_truth=label,
            rephrase_prompts=rephrasings,
            source=fields.where,
        )
    ]


def _label(fields: RecordFields) -> str:
    """Return the label of a claim.

    Raises:
        DataError: it is none that can be flipped.
    """
    name, value = fields.find("label")
    text: Any = value
    if isinstance(value, list) and value and isinstance(value[0], dict):  # KILT: [{"answer": "SUPPORTS"}, …]
        text = value[0].get("answer")
    label = fields.check_text(name, text) if text is not None else fields.required_text("label")
    if label.strip().upper() not in WORDS:
        raise fields.error(name, f"{label!r} is none of {', '.join(WORDS)}.{did_you_mean(label, WORDS)}")
    return label.strip().upper()


def _flipped(label: str) -> str:
    """Return the other label."""
    return next(other for other in WORDS if other != label)
