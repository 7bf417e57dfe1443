"""Read retention sets: held-out facts whose answers no edit should change (TRR)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from easyedit_lifelong.data import hub_datasets as hub
from easyedit_lifelong.data.json_files import label_as_text, name_records, read_json_file
from easyedit_lifelong.data.request import Probe, encoding_problem
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.paths import expanded_path

_FIELDS = (("prompt", "answer"), ("loc", "loc_ans"), ("text", "label"))
"""Fields of a question and its answer: in this package's format, of the Natural Questions in MEND's zsRE files, and of
labelled texts."""


def read_retention(path: Path | str) -> list[Probe]:
    """Read a retention set.

    Args:
        path: one of

            - a JSON list, or JSON Lines (``.jsonl``), of ``{"prompt": …, "answer": …}``;
            - a zsRE file in MEND's form: its Natural Questions (``loc``, ``loc_ans``) are used, each once and verbatim,
              so that they equal the locality prompts of that file;
            - a list of ``{"text": …, "label": …}``, for a classifier;
            - ``{"questions": […], "answers": […]}``, the form of the Natural Questions in GRACE's experiment;
            - the name of a dataset with such records, ``hub:OWNER/NAME[[:CONFIG]:SPLIT]``.

    Raises:
        DataError: the file can't be read, or a record is invalid.
    """
    if hub.is_hub_name(path):
        name, records = str(path), hub.load_records(str(path))
    else:
        path = expanded_path(path, DataError)
        name, records = str(path), read_json_file(path, "no such retention file")
    if isinstance(records, dict) and {"questions", "answers"} <= set(records):
        records = _pair_lists(name, records["questions"], records["answers"])
    if not isinstance(records, list):
        raise DataError(f"{name}: must hold a list of facts")
    if not records:
        raise DataError(f"{name}: holds no facts")
    fields = _question_fields(records[0])
    probes = [_make_probe(where, record, fields) for where, record in name_records(name, records)]
    return list(dict.fromkeys(probes)) if fields == _FIELDS[1] else probes


def _question_fields(record: Any) -> tuple[str, str]:
    """Return the field names of question and answer: the first pair of which the record has at least one field."""
    names = set(record) if isinstance(record, dict) else set()
    return next((fields for fields in _FIELDS if names & set(fields)), _FIELDS[0])


def _make_probe(where: str, record: Any, fields: tuple[str, str]) -> Probe:
    """Validate a record and return its question and answer."""
    texts = []
    for field in fields:
        value = record.get(field) if isinstance(record, dict) else None
        if field == "label":
            value = label_as_text(value)
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{where}, field {field!r}: {_problem(record, field)}")
        problem = encoding_problem(value)
        if problem:
            raise DataError(f"{where}, field {field!r}: {problem}")
        texts.append(value)
    return Probe(*texts)


def _problem(record: Any, field: str) -> str:
    """Return why a field of a record can't be used."""
    if not isinstance(record, dict) or field in record:
        return "is missing, empty or not text"
    *pairs, last = (" and ".join(pair) for pair in _FIELDS)
    names = ", ".join(map(str, record)) or "no fields"
    return f"is missing; the record has {names}. Held-out facts have {', '.join(pairs)}, or {last}."


def _pair_lists(name: str, questions: Any, answers: Any) -> list[dict[str, Any]]:
    """Make one record of each question and its answer."""
    if not isinstance(questions, list) or not isinstance(answers, list) or len(questions) != len(answers):
        raise DataError(f"{name}: 'questions' and 'answers' must be lists of the same length")
    return [{"prompt": question, "answer": answer} for question, answer in zip(questions, answers, strict=True)]
