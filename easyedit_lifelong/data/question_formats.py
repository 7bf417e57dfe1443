"""Datasets whose records are request fields under other names: WikiBigEdit, UltraEditBench, QAEdit, KnowEdit.

Each format is a table of its names. :mod:`easyedit_lifelong.data.record_fields` reads and checks the fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from easyedit_lifelong.data.reading import ReadResult, read_each, read_fields
from easyedit_lifelong.data.record_fields import REQUEST_FIELDS, FieldNames, RecordFields
from easyedit_lifelong.data.request import EditRequest

_WIKIBIGEDIT: FieldNames = {
    "prompt": ("update",),
    "target_new": ("ans",),
    "subject": ("subject",),
    "rephrase_prompt": ("rephrase", "personas"),
    "locality_prompt": ("loc",),
    "locality_ground_truth": ("loc_ans",),
    "portability_prompt": ("mhop",),
    "portability_ground_truth": ("mhop_ans",),
}
_ULTRAEDITBENCH: FieldNames = {
    "case_id": ("case_id",),
    "prompt": ("prompt",),
    "target_new": ("ans",),
    "subject": ("subject",),
    "rephrase_prompt": ("rephrase_prompt",),
    "locality_prompt": ("loc",),
    "locality_ground_truth": ("loc_ans",),
}
_QAEDIT: FieldNames = {
    "prompt": ("prompt",),
    "target_new": ("target",),
    "subject": ("subject",),
    "rephrase_prompt": ("rephrase",),
    "locality": ("locality",),
    "portability": ("portability",),
}
_KNOWEDIT: FieldNames = {
    **REQUEST_FIELDS,
    "prompt": ("prompt", "text"),
    "target_new": ("target_new", "labels"),
    "subject": ("subject", "concept"),
    "rephrase_prompt": ("rephrase_prompt", "rephrase"),
    "ground_truth": ("ground_truth", "target_old"),
}


def read_wikibigedit(path: Path) -> Iterator[ReadResult]:
    """Read a file of WikiBigEdit, which has one for each time step (Thede et al., 2025).

    The question with a persona is a paraphrase, the multi-hop question a portability prompt. ``tag`` says whether a
    fact is new or changed, and isn't read. The form with ``prompt`` and ``target_new`` is the format ``json``.

    Raises:
        DataError: the file can't be read.
    """
    return read_fields(path, _WIKIBIGEDIT)


def read_ultraeditbench(path: Path) -> Iterator[ReadResult]:
    """Read a file of UltraEditBench, of two million records at most (Gu et al., 2025), a record at a time.

    Raises:
        DataError: the file can't be read.
    """
    return read_fields(path, _ULTRAEDITBENCH)


def read_qaedit(path: Path) -> Iterator[ReadResult]:
    """Read a file of QAEdit (Yang et al., 2025). ``locality`` is a list of questions.

    ``id`` is unique only within a ``source``, so that the case_id is the index of the record.

    Raises:
        DataError: the file can't be read.
    """
    return read_fields(path, _QAEDIT)


def read_knowedit(path: Path) -> Iterator[ReadResult]:
    """Read a file of KnowEdit (Zhang et al., 2024) or CKnowEdit (Fang et al., 2024).

    ``portability`` and ``locality`` are sets of questions, or one list of them. Empty questions are left out.

    Raises:
        DataError: the file can't be read.
    """
    return read_fields(path, _KNOWEDIT)


def read_wikibio(path: Path) -> Iterator[ReadResult]:
    """Read KnowEdit's WikiBio: the beginning of a biography (``text``), and its next sentence, corrected (``labels``).

    ``labels`` is the sentence, or a list that begins with it.

    Raises:
        DataError: the file can't be read.
    """
    return read_each(path, _wikibio_request, _KNOWEDIT)


def _wikibio_request(fields: RecordFields, index: int) -> list[EditRequest]:
    """Return the request of a WikiBio record."""
    labels = fields.record.get("labels")
    if isinstance(labels, list) and len(labels) == 1:
        record = {**fields.record, "labels": labels[0]}
        fields = RecordFields(record, fields.where, fields.names, fields.notes)
    return [EditRequest.from_fields(fields, index)]
