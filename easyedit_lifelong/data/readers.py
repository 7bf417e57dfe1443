"""Read dataset files into validated requests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from easyedit_lifelong import bridge
from easyedit_lifelong.data.request import EditRequest, check_unique
from easyedit_lifelong.errors import DataError, did_you_mean

_ZSRE_TEXTS = ("src", "alt", "rephrase", "loc", "loc_ans")
_COUNTERFACT_TEXTS = (
    "prompt",
    "target_new",
    "ground_truth",
    "rephrase_prompt",
    "locality_prompt",
    "locality_ground_truth",
)


def read_zsre(path: Path) -> list[EditRequest]:
    """Read a file in MEND's zsRE form through EasyEdit's ``ZsreDataset``.

    Raises:
        DataError: the file or a record can't be used.
        EasyEditMissingError: there is no EasyEdit.
    """
    records = _records(path)
    for where, record in _located(path, records):
        _require_texts(where, record, _ZSRE_TEXTS)
        answers = record.get("answers")
        if not isinstance(answers, list) or not answers or not isinstance(answers[0], str):
            raise DataError(f"{where}, field 'answers': must be a list that begins with the true answer")
        if "nq question: " not in record["loc"]:
            raise DataError(f"{where}, field 'loc': must contain 'nq question: ' (EasyEdit's loader asks for it)")
    return _requests(path, bridge.read_zsre(path))


def read_counterfact(path: Path) -> list[EditRequest]:
    """Read a file in EasyEdit's CounterFact form through EasyEdit's ``CounterFactDataset``.

    Raises:
        DataError: the file or a record can't be used.
        EasyEditMissingError: there is no EasyEdit.
    """
    for where, record in _located(path, _records(path)):
        _require_texts(where, record, _COUNTERFACT_TEXTS)
    return _requests(path, bridge.read_counterfact(path))


def read_json(path: Path) -> list[EditRequest]:
    """Read a JSON list, or JSON Lines, of records in EasyEdit's request fields.

    Raises:
        DataError: the file or a record can't be used.
    """
    return _requests(path, _records(path))


def read_requests(path: Path | str, read: Callable[[Path], Iterable[EditRequest]]) -> list[EditRequest]:
    """Read a dataset file with a reader, and check what no single record shows.

    Raises:
        DataError: the file isn't there, holds nothing, or uses a ``case_id`` twice.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(f"{path}: no such data file")
    requests = list(read(path))
    if not requests:
        raise DataError(f"{path}: holds no records")
    check_unique(requests)
    return requests


def _requests(path: Path, records: Sequence[Any]) -> list[EditRequest]:
    return [
        EditRequest.from_dict(record, where, case_id=index)
        for index, (where, record) in enumerate(_located(path, records))
    ]


def _located(path: Path, records: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    return ((f"{path}, record {index}", record) for index, record in enumerate(records))


def _records(path: Path) -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text: {error.reason} at byte {error.start}") from error
    if path.suffix == ".jsonl":
        # Not splitlines(): it also splits at U+2028 and the like, which JSON allows within a text.
        return [_parse(line, f"{path}, line {n}", n) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    records = _parse(text, str(path))
    if not isinstance(records, list):
        raise DataError(f"{path}: must hold a list of records (or one record per line, in a .jsonl file)")
    return records


def _parse(text: str, where: str, line: int | None = None) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if line is None else f"column {error.colno}"
        hint = ". One record per line? Then name the file .jsonl" if error.msg == "Extra data" and line is None else ""
        raise DataError(f"{where}: not valid JSON: {error.msg} ({place}){hint}") from error


def _require_texts(where: str, record: Any, names: Sequence[str]) -> None:
    if not isinstance(record, dict):
        raise DataError(f"{where}: must be an object with the fields {', '.join(names)}")
    for name in names:
        if name not in record:
            raise DataError(f"{where}, field {name!r}: is missing.{did_you_mean(name, set(record) - set(names))}")
        if not isinstance(record[name], str) or not record[name].strip():
            raise DataError(f"{where}, field {name!r}: is empty or not text. Give it text or remove the record.")
