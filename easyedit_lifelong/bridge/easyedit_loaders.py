"""Read dataset files with EasyEdit's own loaders; return dictionaries with EasyEdit's request fields."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

from easyedit_lifelong.bridge.easyedit_location import import_easyedit
from easyedit_lifelong.data.zsre_counterfact import request_fields, zsre_extras
from easyedit_lifelong.errors import DataError


def read_zsre(path: str | Path) -> list[dict[str, Any]]:
    """Read a file in zsRE's format with EasyEdit's ``ZsreDataset``.

    EasyEdit skips records without a target. It drops the relation specificity fields and, in the 2023 release, the
    subject; this function reads them from the file. ``case_id`` is the index of the record in the file.

    Raises:
        EasyEditMissingError: EasyEdit isn't installed.
        DataError: EasyEdit can't read the file.
    """
    records = _read(path, "ZsreDataset")
    source = json.loads(Path(path).read_text(encoding="utf-8"))
    return [{**zsre_extras(source[record["case_id"]]), **record} for record in records]


def read_counterfact(path: str | Path) -> list[dict[str, Any]]:
    """Read a file in EasyEdit's CounterFact format with its ``CounterFactDataset``.

    ``case_id`` is the record's own, else its index in the file.

    Raises:
        EasyEditMissingError: EasyEdit isn't installed.
        DataError: EasyEdit can't read the file.
    """
    return _read(path, "CounterFactDataset")


def _read(path: str | Path, dataset: str) -> list[dict[str, Any]]:
    """Read a file with one of EasyEdit's dataset classes."""
    easyeditor = import_easyedit()
    try:
        # CounterFactDataset prints the number of records to standard output.
        with contextlib.redirect_stdout(io.StringIO()):
            loaded = getattr(easyeditor, dataset)(str(path))
        return [request_fields(index, loaded[index]) for index in range(len(loaded))]
    except Exception as error:  # EasyEdit doesn't validate the file, so any exception is possible
        detail = f"{type(error).__name__}: {error}"
        raise DataError(f"{path}: EasyEdit's {dataset} can't read this file: {detail}") from error
