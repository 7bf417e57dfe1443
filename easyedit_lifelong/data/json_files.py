"""Read JSON and JSON Lines files, with messages that name the file, the record and the field."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from easyedit_lifelong.errors import DataError, did_you_mean


def read_json_file(path: Path, missing: str = "no such data file") -> Any:
    """Return the value in a JSON file, or the list of values in a ``.jsonl`` file.

    Args:
        path: the file.
        missing: message if the file doesn't exist.

    Raises:
        DataError: the file doesn't exist, can't be read or isn't JSON; the message names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(f"{path}: {missing}") from error
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text: {error.reason} at byte {error.start}") from error
    if path.suffix == ".jsonl":
        # Not splitlines(), which also splits at U+2028 and similar characters; JSON allows them within a text.
        return [_parse(line, f"{path}, line {n}", n) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    return _parse(text, str(path))


def read_records(path: Path) -> list[Any]:
    """Return the records of a JSON list or of JSON Lines.

    Raises:
        DataError: the file can't be read or doesn't hold a list.
    """
    records = read_json_file(path)
    if not isinstance(records, list):
        raise DataError(f"{path}: must hold a list of records (or one record per line, in a .jsonl file)")
    return records


def name_records(name: Path | str, records: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Yield every record, preceded by its name in messages: ``NAME, record INDEX``."""
    return ((f"{name}, record {index}", record) for index, record in enumerate(records))


def require_texts(where: str, record: Any, names: Sequence[str]) -> None:
    """Check that a record is an object and that the named fields hold text.

    Args:
        where: name of the record in messages.
        record: the record.
        names: the fields.

    Raises:
        DataError: a field is missing, empty or not text; the message names it.
    """
    if not isinstance(record, dict):
        raise DataError(f"{where}: must be an object with the fields {', '.join(names)}")
    for name in names:
        if name not in record:
            raise DataError(f"{where}, field {name!r}: is missing.{did_you_mean(name, set(record) - set(names))}")
        if not isinstance(record[name], str) or not record[name].strip():
            raise DataError(f"{where}, field {name!r}: is empty or not text. Give it text or remove the record.")


def label_as_text(label: Any) -> Any:
    """Return a label as text if it is a number, as in most datasets; return any other value unchanged."""
    return str(label) if isinstance(label, int) and not isinstance(label, bool) else label


def _parse(text: str, where: str, line: int | None = None) -> Any:
    """Parse a JSON file, or one line of a JSON Lines file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        position = f"line {error.lineno}, column {error.colno}" if line is None else f"column {error.colno}"
        one_per_line = error.msg == "Extra data" and line is None
        hint = ". If the file has one record per line, name it .jsonl" if one_per_line else ""
        raise DataError(f"{where}: not valid JSON: {error.msg} ({position}){hint}") from error
