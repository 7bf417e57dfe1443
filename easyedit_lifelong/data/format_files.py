"""Formats that a YAML file describes, for ``--format FILE.yaml``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from easyedit_lifelong.data.field_mapping import FieldMapping
from easyedit_lifelong.data.triples import TripleFormat
from easyedit_lifelong.errors import DataError, did_you_mean
from easyedit_lifelong.hparams_files import read_mapping
from easyedit_lifelong.paths import expanded_path
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.registry import DatasetReader

_KEYS = ("fields", "relations", "columns", "task")
_TASKS = ("qa", "generation", "classification")


def is_format_file(data_format: str) -> bool:
    """Whether a format is given as a file rather than by its name."""
    return Path(data_format).suffix.lower() in {".yaml", ".yml"}


def read_format_file(file: Path) -> DatasetReader:
    """Return the reader that a file describes: of columns (``fields``), or of triples (``relations``).

    Raises:
        DataError: the file doesn't exist or can't be used; the message names the key.
        HyperParameterError: the file isn't YAML.
    """
    file = expanded_path(file, DataError)
    if not file.is_file():
        known = ", ".join(sorted(reader.name for reader in get_plugins().readers))
        raise DataError(
            f"{file}: no such format file. Write one that maps columns to a request's fields "
            f"(docs/data.md#your-own-columns), or name a format: {known}."
        )
    values = read_mapping(file, "'fields' (templates of columns) or 'relations' (templates of triples)")
    for key in values:
        if key not in _KEYS:
            raise DataError(f"{file}: unknown key {key!r}.{did_you_mean(str(key), _KEYS)}")
    if ("fields" in values) == ("relations" in values):
        raise DataError(f"{file}: needs either 'fields' (templates of columns) or 'relations' (templates of triples)")
    task: Any = values.get("task", "qa")
    if task not in _TASKS:
        raise DataError(f"{file}, task: {task!r} is none of {', '.join(_TASKS)}.{did_you_mean(str(task), _TASKS)}")
    if "fields" in values:
        if "columns" in values:
            raise DataError(f"{file}, columns: belongs to 'relations'; 'fields' has templates of columns")
        read = FieldMapping(file, values["fields"]).read
    else:
        read = TripleFormat.of(file, values["relations"], values.get("columns")).read
    return DatasetReader(str(file), read, f"described by {file}", task)
