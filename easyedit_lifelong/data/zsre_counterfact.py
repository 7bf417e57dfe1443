"""The fields of zsRE and CounterFact records: natively, and as EasyEdit's loaders give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from easyedit_lifelong.data.record_fields import FieldNames, RecordFields, is_absent
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import DataError

EASYEDIT_FIELDS = (
    "case_id",
    "prompt",
    "target_new",
    "subject",
    "ground_truth",
    "rephrase_prompt",
    "locality_prompt",
    "locality_ground_truth",
)
RELATION_SPECIFICITY_FIELDS = ("relation_specificity_prompt", "relation_specificity_ground_truth")
"""Fields that this package adds to both formats. EasyEdit's loaders ignore them."""

ZSRE_FIELDS: FieldNames = {
    "prompt": ("src",),
    "target_new": ("alt",),
    "subject": ("subject",),
    "ground_truth": ("answers",),
    "rephrase_prompt": ("rephrase",),
    "locality_prompt": ("loc",),
    "locality_ground_truth": ("loc_ans",),
    **{name: (name,) for name in RELATION_SPECIFICITY_FIELDS},
}
"""The fields of MEND's zsRE files. The target is the false ``alt``; the first of ``answers`` is the true answer."""

COUNTERFACT_FIELDS: FieldNames = {
    name: (name,)
    for name in (
        *EASYEDIT_FIELDS,
        *RELATION_SPECIFICITY_FIELDS,
        "portability_prompt",
        "portability_ground_truth",
    )
}
"""The fields of EasyEdit's CounterFact files."""

_QUESTION = "nq question: "
"""The prefix of zsRE's locality prompts, which EasyEdit's loader requires."""


def zsre_request(fields: RecordFields, index: int) -> list[EditRequest]:
    """Return the request of a zsRE record. ``case_id`` is the index of the record in the file.

    Raises:
        DataError: a field is missing or has an invalid value.
    """
    request = EditRequest.from_fields(fields, index)
    answers = fields.record.get("answers")
    if not is_absent(answers) and not isinstance(answers, list):
        raise fields.error("answers", "must be a list that begins with the true answer")
    if any(_QUESTION not in probe.prompt for probe in request.locality.get("neighborhood", ())):
        raise fields.error("loc", f"must contain {_QUESTION!r} (EasyEdit's loader requires it)")
    return [request]


def is_complete(result: EditRequest | DataError) -> bool:
    """Whether a record has all fields that EasyEdit's loaders require."""
    return isinstance(result, EditRequest) and bool(
        result.ground_truth and result.rephrase_prompts and result.locality.get("neighborhood")
    )


def zsre_extras(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a zsRE record that EasyEdit's release drops: subject and relation specificity."""
    subject = {"subject": record["subject"]} if record.get("subject") else {}
    return {**subject, **{name: record[name] for name in RELATION_SPECIFICITY_FIELDS if name in record}}


def request_fields(index: int, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request fields of a record, with ``index`` as ``case_id`` if the record has none."""
    known = (*EASYEDIT_FIELDS, *RELATION_SPECIFICITY_FIELDS)
    fields = {name: value for name, value in record.items() if name in known or name.startswith("portability_")}
    return {"case_id": index, **fields}
