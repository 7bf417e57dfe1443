"""Read the records of a dataset file one after another: JSON, JSON Lines, CSV, TSV or parquet."""

from __future__ import annotations

import csv
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from easyedit_lifelong.data.json_files import ENCODING, iterate_json_lines, iterate_json_list, unreadable
from easyedit_lifelong.data.reading_notes import ReadingNotes
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.plurals import counted

_SEPARATORS = {".csv": ",;", ".tsv": "\t"}
"""By suffix: what can separate the values of a row. The first one that the file's first line contains does."""


def iterate_records(path: Path, notes: ReadingNotes | None = None) -> Iterator[Any]:
    """Yield the records of a file, in its order, while it is read.

    The file's suffix determines how it is read: ``.jsonl`` is JSON Lines, ``.csv``, ``.tsv`` and ``.parquet`` are
    tables, whose rows become objects; anything else is a JSON list.

    Args:
        path: the file.
        notes: receives what the user should know about the file.

    Raises:
        DataError: the file can't be read or has another form.
    """
    notes = ReadingNotes(path) if notes is None else notes
    suffix = path.suffix.lower()
    if suffix in _SEPARATORS:
        return _table_rows(path, _SEPARATORS[suffix])
    if suffix == ".parquet":
        return _parquet_rows(path)
    return iterate_json_lines(path, notes) if suffix == ".jsonl" else iterate_json_list(path, notes)


def _table_rows(path: Path, separators: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a CSV or TSV file, whose first row has the names of the columns.

    Spreadsheets write semicolons into CSV files where the comma is the decimal separator.
    """
    try:
        with path.open(encoding=ENCODING, newline="") as file:
            first_line = file.readline()
            file.seek(0)
            separator = next((one for one in separators if one in first_line), separators[0])
            reader = csv.reader(file, delimiter=separator, strict=True)
            columns = next(reader, [])
            _check_columns(path, columns)
            rows = (row for row in reader if row)  # an empty line isn't a row
            for number, row in enumerate(rows):
                if len(row) != len(columns):
                    raise DataError(
                        f"{path}, record {number} (line {reader.line_num}): has {counted(len(row), 'value')} for "
                        f"{counted(len(columns), 'column')}. Quote values that contain the separator."
                    )
                yield dict(zip(columns, row, strict=True))
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not valid {path.suffix[1:].upper()}: {error}") from error


def _check_columns(path: Path, columns: list[str]) -> None:
    """Check the first row of a table.

    Raises:
        DataError: a column has no name, or the name of another one.
    """
    if not columns:
        raise DataError(f"{path}: is empty. Its first row must name the columns.")
    for number, name in enumerate(columns, 1):
        if not name.strip():
            raise DataError(f"{path}: column {number} has no name. The first row must name the columns.")
        if columns.count(name) > 1:
            raise DataError(f"{path}: two columns have the name {name!r}. Give each column its own name.")


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a parquet file, a part of the file at a time."""
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise DataError(
            f"{path}: is read with the package pyarrow, which isn't installed. Run: pip install pyarrow."
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except OSError as error:
        raise DataError(f"{path}: can't be read: {str(error).splitlines()[0]}") from error
    except ValueError as error:  # pyarrow.ArrowInvalid and its other errors
        raise DataError(f"{path}: not valid parquet: {str(error).splitlines()[0]}") from error
