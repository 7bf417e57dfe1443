"""Read a dataset's records as requests, one after another, and report at the end what can't be used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from easyedit_lifelong.data.reading_notes import ReadingNotes
from easyedit_lifelong.data.record_fields import REQUEST_FIELDS, FieldNames, RecordFields
from easyedit_lifelong.data.record_streams import iterate_records
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.plurals import counted

ReadResult = EditRequest | DataError
"""What a reader yields: a request, or the error of a record that can't be used."""

Convert = Callable[[RecordFields, int], Iterable[EditRequest]]
"""Makes the requests of one record, given its fields and its index in the file."""

RecordsOf = Callable[[Path, ReadingNotes], Iterable[Any]]
"""Yields the records of a file, and notes what the user should know about it."""

_LISTED, _LISTED_WITHOUT_USABLE = 50, 5


def read_fields(path: Path, names: FieldNames = REQUEST_FIELDS) -> Iterator[ReadResult]:
    """Read a file whose records have request fields, under these names. ``case_id`` is the record's index by default.

    Raises:
        DataError: the file can't be read.
    """
    return read_each(path, lambda fields, index: [EditRequest.from_fields(fields, index)], names)


def read_each(
    path: Path, convert: Convert, names: FieldNames, records: RecordsOf = iterate_records
) -> Iterator[ReadResult]:
    """Yield the requests of each record of a file, or the error of the record, while the file is read.

    Args:
        path: the file.
        convert: makes the requests of one record; raises a DataError that names the record and the field.
        names: the names that the format has for request fields. A field that resembles one of them is reported.
        records: yields the records of a file.

    Raises:
        DataError: the file can't be read.
    """
    notes = ReadingNotes(path)
    try:
        for index, record in enumerate(records(path, notes)):
            yield from _results(path, record, index, convert, names, notes)
    finally:
        notes.log()


def _results(
    path: Path, record: Any, index: int, convert: Convert, names: FieldNames, notes: ReadingNotes
) -> list[ReadResult]:
    """Return the requests of one record, or its error."""
    dropped = len(notes.dropped)
    try:
        fields = RecordFields(record, f"{path}, record {index}", names, notes)
        results: list[ReadResult] = list(convert(fields, index))
        fields.note_misspelt_names()
        return results
    except DataError as error:
        del notes.dropped[dropped:]  # the error is enough
        return [error]


def separate(results: Iterable[ReadResult], limit: int | None = None) -> tuple[list[EditRequest], list[DataError]]:
    """Return the requests that a reader yields, and the errors of the records that can't be used.

    Args:
        results: what the reader yields.
        limit: stop after this many requests, without reading the rest; None to read everything.
    """
    requests: list[EditRequest] = []
    unusable: list[DataError] = []
    iterator = iter(results)
    for result in iterator if limit is None or limit > 0 else ():
        if isinstance(result, DataError):
            unusable.append(result)
            continue
        requests.append(result)
        if len(requests) == limit:
            break
    close = getattr(iterator, "close", None)
    if close is not None:
        close()  # a generator closes its file and reports
    return requests, unusable


def unusable_records(name: object, errors: list[DataError], n_usable: int, advice: str = "") -> str:
    """Return a text that lists the records that can't be used, with their reasons.

    Args:
        name: the dataset.
        errors: the errors of the records.
        n_usable: the number of usable requests.
        advice: what to do about them; empty, or a sentence with a space before it.
    """
    reasons = [str(error).removeprefix(f"{name}, ") for error in errors]
    # Without a usable record, the format is wrong rather than the records: some reasons suffice.
    listed = _LISTED if n_usable else _LISTED_WITHOUT_USABLE
    shown = "".join(f"\n  {reason}" for reason in reasons[:listed])
    more = f"\n  and {len(reasons) - listed} more" if len(reasons) > listed else ""
    count = counted(len(errors), "record")
    usable = f"; the other {counted(n_usable, 'request')} can" if n_usable else ""
    return f"{name}: {count} can't be used{usable}.{advice}{shown}{more}"
