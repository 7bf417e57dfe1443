"""Read documents of text, JSON Lines, JSON and Parquet files. Large text and JSON Lines files stay on disk."""

from __future__ import annotations

import bisect
import hashlib
import importlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from easyedit_lifelong.errors import DataError
from easyedit_lifelong.parsing import parse_json
from easyedit_lifelong.paths import expanded_path

SUFFIXES = (".txt", ".text", ".md", ".jsonl", ".ndjson", ".json", ".parquet")
_READABLE = ", ".join(SUFFIXES)
_FULL_DIGEST_BYTES = 64 << 20
"""Up to this size, the digest of a file covers all of its contents."""
_PIECES = 64
_PIECE_BYTES = 1 << 20


def corpus_files(path: Path) -> list[Path]:
    """Return the corpus files at a path: the file itself, or all in the folder and its subfolders, sorted.

    Raises:
        DataError: the path doesn't exist, the folder holds no corpus file, or the file has another format.
    """
    path = expanded_path(path, DataError)
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(f"{path}: can't read a corpus from {path.suffix or 'this'!r}; use one of {_READABLE}.")
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such corpus file or folder")
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{path}: this folder holds no corpus file. Put one of {_READABLE} into it.")
    return files


def digest_files(files: Sequence[Path]) -> str:
    """Return a digest of files' contents. For large files, it covers the size and evenly spaced pieces.

    Raises:
        DataError: a file can't be read.
    """
    digest = hashlib.sha256()
    for path in files:
        try:
            size = path.stat().st_size
            digest.update(f"{path.name} {size}\n".encode())
            with path.open("rb") as file:
                if size <= _FULL_DIGEST_BYTES:
                    digest.update(file.read())
                    continue
                for piece in range(_PIECES):
                    file.seek(piece * (size - _PIECE_BYTES) // (_PIECES - 1))
                    digest.update(file.read(_PIECE_BYTES))
        except OSError as error:
            raise DataError(f"{path}: can't be read: {error.strerror}") from error
    return digest.hexdigest()


class Documents(Sequence[str]):
    """A sequence of documents that reads each document when it is accessed.

    Args:
        count: number of documents.
        read: returns the document with an index.
    """

    def __init__(self, count: int, read: Callable[[int], str]) -> None:
        self._count, self._read = count, read

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._read(index)


def concatenate(parts: Sequence[Sequence[str]]) -> Documents:
    """Return the documents of several sequences as one sequence."""
    ends = list(itertools.accumulate(map(len, parts), initial=0))

    def read(index: int) -> str:
        part = bisect.bisect_right(ends, index) - 1
        return parts[part][index - ends[part]]

    return Documents(ends[-1], read)


def table_column(values: Any) -> Documents:
    """Return the texts in a column of a table as documents; a missing text is empty."""

    def read(index: int) -> str:
        value = values[index]
        value = value.as_py() if hasattr(value, "as_py") else value
        return value if isinstance(value, str) else ""

    return Documents(len(values), read)


def _byte_ranges(path: Path, spans: Sequence[tuple[int, int]], decode: Callable[[bytes, int], str]) -> Documents:
    """Return documents that are byte ranges of a file. Memory holds only the ranges.

    Args:
        path: the file.
        spans: ``(start, end)`` of every document.
        decode: returns a document's text, given its bytes and, for messages, its index.
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

    In a text file, blank lines separate documents; without blank lines, every line is a document. In other files, every
    record is a document: a string, or an object or row with a field ``text``, or with only one field that holds text.

    Raises:
        DataError: the file can't be read; the message names file and record.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            return _read_parquet(path)
        if suffix == ".json":
            return _read_json(path)
        if suffix in (".jsonl", ".ndjson"):
            return _read_json_lines(path)
        return _read_text(path)
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror or error}") from error


class _Line(NamedTuple):
    """A line of a file: the positions of its first byte and after its last byte, and whether it is blank."""

    start: int
    end: int
    is_blank: bool


def _lines_of(path: Path) -> Iterator[_Line]:
    """Yield the lines of a file."""
    position = 0
    with path.open("rb") as file:
        for line in file:
            yield _Line(position, position + len(line), not line.strip())
            position += len(line)


def _read_json_lines(path: Path) -> Documents:
    """Return the records of a JSON Lines file; each is parsed when it is accessed."""

    def decode(data: bytes, index: int) -> str:
        return _record_text(path, index, _parse_json(f"{path}, record {index}", data))

    return _byte_ranges(path, [(line.start, line.end) for line in _lines_of(path) if not line.is_blank], decode)


def _read_text(path: Path) -> Documents:
    """Return the paragraphs of a text file; its lines if it has only one paragraph."""
    groups = itertools.groupby(_lines_of(path), key=lambda line: line.is_blank)
    paragraphs = [list(lines) for is_blank, lines in groups if not is_blank]
    if len(paragraphs) > 1:
        spans = [(lines[0].start, lines[-1].end) for lines in paragraphs]
    else:
        spans = [(line.start, line.end) for lines in paragraphs for line in lines]

    def decode(data: bytes, index: int) -> str:
        try:
            return data.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, document {index}: is not UTF-8 text: {error.reason}") from error

    return _byte_ranges(path, spans, decode)


def _parse_json(where: str, data: bytes) -> Any:
    """Parse JSON.

    Raises:
        DataError: the data are not valid JSON; the message begins with ``where``.
    """
    try:
        return parse_json(data)
    except ValueError as error:
        raise DataError(f"{where}: is not valid JSON: {error}") from error


def _read_json(path: Path) -> Sequence[str]:
    """Return the records of a JSON list as documents."""
    records = _parse_json(str(path), path.read_bytes())
    if not isinstance(records, list):
        raise DataError(f"{path}: must hold a list of texts or of objects with a field 'text'")
    return [_record_text(path, index, record) for index, record in enumerate(records)]


def _record_text(path: Path, index: int, record: Any) -> str:
    """Return the text of a JSON record."""
    if isinstance(record, str):
        return record
    if isinstance(record, dict):
        field = text_field({key: isinstance(value, str) for key, value in record.items()})
        if field is not None and isinstance(record[field], str):
            return record[field]
        fields = ", ".join(map(str, record)) or "none"
        raise DataError(
            f"{path}, record {index}: has no field 'text', and not exactly one field of text (fields: {fields})"
        )
    raise DataError(f"{path}, record {index}: must be a text or an object with a field 'text'")


def text_field(fields: dict[str, bool]) -> str | None:
    """Return the field that holds the documents: ``text``, or the only one that holds text; None if there is none.

    Args:
        fields: whether a field holds text, by its name.
    """
    if "text" in fields:
        return "text"
    texts = [name for name, is_text in fields.items() if is_text]
    return texts[0] if len(texts) == 1 else None


def _read_parquet(path: Path) -> Sequence[str]:
    """Return the rows of a Parquet file as documents, from its column of text."""
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
            raise DataError(
                f"{path}: has no column 'text', and not exactly one column of text (columns: {', '.join(is_text)})"
            )
        return table_column(file.read(columns=[field]).column(field))
    except arrow.ArrowException as error:
        raise DataError(f"{path}: is not a readable Parquet file: {str(error).splitlines()[0]}") from error
