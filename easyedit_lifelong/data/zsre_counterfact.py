"""Convert zsRE and CounterFact records to the same request fields as EasyEdit's loaders, without EasyEdit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

REQUEST_FIELDS = (
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

_ZSRE_FIELDS = {
    "prompt": "src",
    "target_new": "alt",
    "rephrase_prompt": "rephrase",
    "locality_prompt": "loc",
    "locality_ground_truth": "loc_ans",
}


def zsre_records(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Convert the records of a zsRE file to EasyEdit's request fields.

    Records without a target are dropped. ``case_id`` is the index of the record in the file.

    Args:
        records: records with MEND's fields; the first of ``answers`` is the true answer.
    """
    return [
        {
            "case_id": index,
            **{name: record[field] for name, field in _ZSRE_FIELDS.items()},
            "ground_truth": record["answers"][0],
            **zsre_extras(record),
        }
        for index, record in enumerate(records)
        if record["alt"] != ""
    ]


def zsre_extras(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a zsRE record that EasyEdit's release drops: subject and relation specificity."""
    subject = {"subject": record["subject"]} if record.get("subject") else {}
    return {**subject, **{name: record[name] for name in RELATION_SPECIFICITY_FIELDS if name in record}}


def counterfact_records(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Convert the records of a CounterFact file with :func:`request_fields`."""
    return [request_fields(index, record) for index, record in enumerate(records)]


def request_fields(index: int, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request fields of a record, with ``index`` as ``case_id`` if the record has none."""
    known = (*REQUEST_FIELDS, *RELATION_SPECIFICITY_FIELDS)
    fields = {name: value for name, value in record.items() if name in known or name.startswith("portability_")}
    return {"case_id": index, **fields}
