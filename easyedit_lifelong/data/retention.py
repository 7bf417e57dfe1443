"""Held-out facts, which no edit shall change: retention sets (TRR)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from easyedit_lifelong.data import hub_datasets as hub
from easyedit_lifelong.data.files import label_text, located, read_json_file
from easyedit_lifelong.data.request import Probe, half_character
from easyedit_lifelong.errors import DataError

_FIELDS = (("prompt", "answer"), ("loc", "loc_ans"), ("text", "label"))
"""A question's fields and its answer's: ours, those of the Natural Questions in MEND's zsRE files, and labelled
texts'."""


def read_retention(path: Path | str) -> list[Probe]:
    """Read held-out facts.

    They may be:

    - a JSON list, or JSON Lines (``.jsonl``), of ``{"prompt": …, "answer": …}``;
    - a zsRE file as MEND has it, of which the held-out Natural Questions are taken (``loc``, ``loc_ans``; word
      for word, so they are the questions that locality asks of such a file), each once;
    - a list of ``{"text": …, "label": …}``, for a classifier;
    - ``{"questions": […], "answers": […]}``, as the Natural Questions of GRACE's experiment are stored;
    - a dataset with such records by name, ``hub:OWNER/NAME[[:CONFIG]:SPLIT]``.

    Raises:
        DataError: the file can't be used.
    """
    if hub.is_name(path):
        name, records = str(path), hub.load_records(str(path))
    else:
        path = Path(path).expanduser()
        name, records = str(path), read_json_file(path, "no such retention file")
    if isinstance(records, dict) and {"questions", "answers"} <= set(records):
        records = _paired(name, records["questions"], records["answers"])
    if not isinstance(records, list):
        raise DataError(f"{name}: must hold a list of facts")
    if not records:
        raise DataError(f"{name}: holds no facts")
    fields = _fields(records[0])
    probes = [_probe(where, record, fields) for where, record in located(name, records)]
    return list(dict.fromkeys(probes)) if fields == _FIELDS[1] else probes


def _fields(record: Any) -> tuple[str, str]:
    """Return which fields a file's records have: the first that any of them shows in the first record."""
    names = set(record) if isinstance(record, dict) else set()
    return next((fields for fields in _FIELDS if names & set(fields)), _FIELDS[0])


def _probe(where: str, record: Any, fields: tuple[str, str]) -> Probe:
    texts = []
    for field in fields:
        value = record.get(field) if isinstance(record, dict) else None
        if field == "label":
            value = label_text(value)
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{where}, field {field!r}: is missing, empty or not text")
        problem = half_character(value)
        if problem:
            raise DataError(f"{where}, field {field!r}: {problem}")
        texts.append(value)
    return Probe(*texts)


def _paired(name: str, questions: Any, answers: Any) -> list[dict[str, Any]]:
    if not isinstance(questions, list) or not isinstance(answers, list) or len(questions) != len(answers):
        raise DataError(f"{name}: 'questions' and 'answers' must be lists of the same length")
    return [{"prompt": question, "answer": answer} for question, answer in zip(questions, answers, strict=True)]
