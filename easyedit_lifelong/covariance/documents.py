"""Documents of text, JSON Lines, JSON and Parquet files, without holding a big file in memory."""

from __future__ import annotations

import bisect
import hashlib
import importlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from easyedit_lifelong.errors import DataError

SUFFIXES = (".txt", ".text", ".md", ".jsonl", ".ndjson", ".json", ".parquet")
_READABLE = ", ".join(SUFFIXES)
_WHOLE = 64 << 20
_PIECES = 64


def files_of(path: Path) -> list[Path]:
    """Return the corpus files that a path means: itself, or those in it (sorted, at any depth).

    Raises:
        DataError: there are none, or the file is of a kind that can't be read.
    """
    path = path.expanduser()
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(f"{path}: can't read a corpus from {path.suffix or 'this'!r}; use one of {_READABLE}.")
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such corpus file or folder")
    found = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in SUFFIXES)
    if not found:
        raise DataError(f"{path}: this folder holds no corpus file; it takes {_READABLE}.")
    return found


def digest_of(files: Sequence[Path]) -> str:
    """Return a digest of the files' contents; of big ones, of evenly spaced pieces and the size."""
    digest = hashlib.sha256()
    for path in files:
        try:
            size = path.stat().st_size
            digest.update(f"{path.name} {size}\n".encode())
            with path.open("rb") as file:
                if size <= _WHOLE:
                    digest.update(file.read())
                    continue
                for piece in range(_PIECES):
                    file.seek(piece * (size - (1 << 20)) // (_PIECES - 1))
                    digest.update(file.read(1 << 20))
        except OSError as error:
            raise DataError(f"{path}: can't be read: {error.strerror}") from error
    return digest.hexdigest()


class Documents(Sequence[str]):
    """Documents of which each is read when it is asked for.

    Args:
        count: how many there are.
        read: returns the document of an index.
    """

    def __init__(self, count: int, read: Callable[[int], str]) -> None:
        self._count, self._read = count, read

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._read(index)


def joined(parts: Sequence[Sequence[str]]) -> Documents:
    """Return the documents of several files as one sequence."""
    ends = list(itertools.accumulate(map(len, parts), initial=0))

    def read(index: int) -> str:
        part = bisect.bisect_right(ends, index) - 1
        return parts[part][index - ends[part]]

    return Documents(ends[-1], read)


def column(values: Any) -> Documents:
    """Return the texts of a table's column; a missing one is empty."""

    def read(index: int) -> str:
        value = values[index]
        value = value.as_py() if hasattr(value, "as_py") else value
        return value if isinstance(value, str) else ""

    return Documents(len(values), read)


def _slices(path: Path, spans: Sequence[tuple[int, int]], decode: Callable[[bytes, int], str]) -> Documents:
    """Return documents that are byte ranges of a file; only the ranges are held in memory.

    Args:
        path: the file.
        spans: ``(start, end)`` of every document.
        decode: makes a document's text of its bytes; it is given the document's index for messages.
    """
    ranges = np.array(spans, dtype=np.int64).reshape(-1, 2)

    def read(index: int) -> str:
        start, end = ranges[index].tolist()
        with path.open("rb") as file:
            file.seek(start)
            return decode(file.read(end - start), index)

    return Documents(len(ranges), read)


def read_file(path: Path) -> Sequence[str]:
    """Return a file's documents.

    In a text file a blank line ends a document; where there are none, every line is one. The other kinds
    hold a document a record: a string, or an object or row with a field ``text``, or with only one field of text.

    Raises:
        DataError: the file can't be read; the message names file and record.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            return _parquet(path)
        if suffix == ".json":
            return _json(path)
        if suffix in (".jsonl", ".ndjson"):
            spans = [(start, end) for start, end, blank in _lines(path) if not blank]
            return _slices(
                path, spans, lambda data, index: _record_text(path, index, _parse(f"{path}, record {index}", data))
            )
        return _text(path)
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror or error}") from error


def _lines(path: Path) -> Iterator[tuple[int, int, bool]]:
    position = 0
    with path.open("rb") as file:
        for line in file:
            yield position, position + len(line), not line.strip()
            position += len(line)


def _text(path: Path) -> Sequence[str]:
    groups = itertools.groupby(_lines(path), key=lambda line: line[2])
    runs = [[line[:2] for line in lines] for blank, lines in groups if not blank]
    lines = [span for run in runs for span in run]
    paragraphs = [(run[0][0], run[-1][1]) for run in runs]

    def decode(data: bytes, index: int) -> str:
        try:
            return data.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, document {index}: is not UTF-8 text: {error.reason}") from error

    return _slices(path, paragraphs if len(paragraphs) > 1 else lines, decode)


def _parse(where: str, data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise DataError(f"{where}: is not valid JSON: {error}") from error


def _json(path: Path) -> Sequence[str]:
    records = _parse(str(path), path.read_bytes())
    if not isinstance(records, list):
        raise DataError(f"{path}: must hold a list of texts or of objects with a field 'text'")
    return [_record_text(path, index, record) for index, record in enumerate(records)]


def _record_text(path: Path, index: int, record: Any) -> str:
    if isinstance(record, str):
        return record
    if isinstance(record, dict):
        field = text_field({key: isinstance(value, str) for key, value in record.items()})
        if field is not None and isinstance(record[field], str):
            return record[field]
        fields = ", ".join(map(str, record)) or "none"
        raise DataError(f"{path}, record {index}: has no field 'text' nor just one field of text (fields: {fields})")
    raise DataError(f"{path}, record {index}: must be a text or an object with a field 'text'")


def text_field(fields: dict[str, bool]) -> str | None:
    """Return the field that holds the documents: ``text``, else the only one that holds text."""
    if "text" in fields:
        return "text"
    texts = [name for name, is_text in fields.items() if is_text]
    return texts[0] if len(texts) == 1 else None


def _parquet(path: Path) -> Sequence[str]:
    try:
        arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise DataError(f"{path}: reading Parquet files needs pyarrow. Run: pip install pyarrow") from error
    try:
        file = parquet.ParquetFile(path)
        schema = file.schema_arrow
        is_text = {
            item.name: arrow.types.is_string(item.type) or arrow.types.is_large_string(item.type) for item in schema
        }
        field = text_field(is_text)
        if field is None or not is_text[field]:
            raise DataError(f"{path}: has no column 'text' nor just one column of text (columns: {', '.join(is_text)})")
        return column(file.read(columns=[field]).column(field))
    except arrow.ArrowException as error:
        raise DataError(f"{path}: is not a readable Parquet file: {str(error).splitlines()[0]}") from error
