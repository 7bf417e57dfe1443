"""A format that a YAML file describes: request fields as templates of a dataset's columns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from easyedit_lifelong.data.cells import parse_cell, parse_list
from easyedit_lifelong.data.reading import ReadResult, read_each
from easyedit_lifelong.data.record_fields import REQUEST_FIELDS, FieldNames, RecordFields, is_absent
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.templates import Template, look_up
from easyedit_lifelong.errors import DataError, did_you_mean

Mapped = Template | tuple["Mapped", ...] | dict[str, "Mapped"]
"""The templates of a field: one, a list, or an object such as a set of probes."""

REQUIRED = ("prompt", "target_new")

_NESTED = ("locality", "portability", "context_turns")
"""Fields whose values are lists or objects. In a cell of a table, these are JSON."""

_LISTS = ("rephrase_prompt", "aliases")
"""Fields whose values are a text or a list."""


class FieldMapping:
    """Makes requests of records with other columns.

    A template that is one ``{column}`` gives the column's value, so that a list stays a list; any other template gives
    text. Numbers become text. A template with an absent value is an absent field. A text where only a list or an object
    can be is read as JSON, since the cell of a table holds nothing but text.

    Args:
        file: the YAML file, for messages.
        fields: the templates of request fields.

    Raises:
        DataError: a field is unknown, a required one is missing, or a template is invalid.
    """

    def __init__(self, file: Path, fields: Any) -> None:
        if not isinstance(fields, Mapping):
            raise DataError(f"{file}, fields: must map request fields to templates such as '{{column}}'")
        unknown = [name for name in fields if name not in REQUEST_FIELDS]
        if unknown:
            hint = did_you_mean(str(unknown[0]), REQUEST_FIELDS)
            raise DataError(f"{file}, fields.{unknown[0]}: is no field of a request.{hint}")
        for name in REQUIRED:
            if fields.get(name) is None:
                raise DataError(f"{file}, fields.{name}: is missing; every request needs it")
        self._templates = {
            name: _parse(file, f"fields.{name}", value) for name, value in fields.items() if value is not None
        }
        # In messages, a field is called by its template, which names the columns of the file.
        self._names: FieldNames = {
            name: (mapped.text if isinstance(mapped, Template) else name,) for name, mapped in self._templates.items()
        }
        self._columns = {
            column: f"{file}, fields.{name}"
            for name, mapped in reversed(self._templates.items())
            for column in _columns(mapped)
        }

    def read(self, path: Path) -> Iterator[ReadResult]:
        """Read a file of records as requests.

        Raises:
            DataError: the file can't be read.
        """
        # The columns are no request fields, but a column that resembles one of them is reported.
        return read_each(path, self._request, {column: (column.split(".")[0],) for column in self._columns})

    def _request(self, fields: RecordFields, index: int) -> list[EditRequest]:
        """Return the request of a record."""
        record = fields.record
        fields.notes.check_columns(record, self._columns)
        for name in REQUIRED:
            for column in _columns(self._templates[name]):
                if column not in record and column.split(".")[0] not in record:
                    raise fields.error(column, f"is missing; it is a column of {name!r}.{did_you_mean(column, record)}")
        mapped = {
            self._names[name][0]: _fill(template, fields, name in _NESTED, name in _LISTS)
            for name, template in self._templates.items()
        }
        request_fields = RecordFields(mapped, fields.where, self._names, fields.notes)
        return [EditRequest.from_fields(request_fields, index)]


def _parse(file: Path, where: str, value: Any) -> Mapped:
    """Return the templates of a field.

    Raises:
        DataError: a template is invalid, or has no column.
    """
    if isinstance(value, Mapping):
        return {str(key): _parse(file, f"{where}.{key}", item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_parse(file, f"{where}[{number}]", item) for number, item in enumerate(value))
    if not isinstance(value, str):
        raise DataError(f"{file}, {where}: must be a template such as '{{column}}', not {value!r}. Quote it.")
    try:
        template = Template.parse(value)
    except ValueError as error:
        raise DataError(f"{file}, {where}: {value!r}: {error}") from error
    if not template.names:
        raise DataError(f"{file}, {where}: {value!r} has no column. Write it in braces: '{{{value}}}'")
    return template


def _columns(mapped: Mapped) -> Iterator[str]:
    """Yield the columns of templates."""
    if isinstance(mapped, Template):
        yield from mapped.names
    else:
        for item in mapped.values() if isinstance(mapped, dict) else mapped:
            yield from _columns(item)


def _fill(mapped: Mapped, fields: RecordFields, nested: bool, listed: bool) -> Any:
    """Return the value of templates for a record.

    Args:
        mapped: the templates.
        fields: the record.
        nested: whether the value must be a list or an object, so that a text is one as JSON.
        listed: whether the value can be a list, so that a text can be one as JSON.
    """
    if isinstance(mapped, dict):
        # An object of sets has lists or objects, too; a set has texts or lists under 'prompt' and 'ground_truth'.
        is_set = not nested or "prompt" in mapped
        return {name: _fill(item, fields, not is_set, is_set) for name, item in mapped.items()}
    if isinstance(mapped, tuple):
        items = [_fill(item, fields, False, False) for item in mapped]
        return [item for item in items if not is_absent(item)]
    values = {name: _value_of(name, fields) for name in mapped.names}
    if any(is_absent(value) for value in values.values()):
        return None
    if len(mapped.parts) == 1:
        (name, value), *_ = values.items()
        if not isinstance(value, str):
            return value
        return _parsed(name, value, fields) if nested else parse_list(value) if listed else value
    for name, value in values.items():
        if not isinstance(value, str):
            fields.check_text(name, value)
    return mapped.fill(values.__getitem__)


def _value_of(name: str, fields: RecordFields) -> Any:
    """Return a record's value of a column, a number as text; None if it is absent.

    Raises:
        DataError: the name leads into a text that is no JSON.
    """
    try:
        return _as_text(look_up(fields.record, name))
    except ValueError as error:
        raise fields.error(name, str(error)) from error


def _parsed(name: str, text: str, fields: RecordFields) -> Any:
    """Return the list or object of a cell.

    Raises:
        DataError: the cell holds something else.
    """
    try:
        return parse_cell(text)
    except ValueError as error:
        raise fields.error(name, str(error)) from error


def _as_text(value: Any) -> Any:
    """Return a number as text; return any other value unchanged."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return str(value) if is_number else value
