"""Read datasets with EasyEdit's own loaders, as plain dictionaries in EasyEdit's request fields."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

from easyedit_lifelong.bridge.locate import import_easyedit
from easyedit_lifelong.data.native_loaders import request_fields, zsre_extras
from easyedit_lifelong.errors import DataError


def read_zsre(path: str | Path) -> list[dict[str, Any]]:
    """Read a file in zsRE's format with EasyEdit's ``ZsreDataset``.

    EasyEdit leaves out records without a target. It drops the relation specificity fields and (the 2023 release)
    the subject, which are read from the file again; ``case_id`` is the record's index in the file.

    Raises:
        EasyEditMissingError: EasyEdit isn't there.
        DataError: EasyEdit can't read the file.
    """
    records = _read(path, "ZsreDataset")
    source = json.loads(Path(path).read_text(encoding="utf-8"))
    return [{**zsre_extras(source[record["case_id"]]), **record} for record in records]


def read_counterfact(path: str | Path) -> list[dict[str, Any]]:
    """Read a file in EasyEdit's CounterFact format with its ``CounterFactDataset``.

    ``case_id`` is the record's own, or its index in the file where it has none.

    Raises:
        EasyEditMissingError: EasyEdit isn't there.
        DataError: EasyEdit can't read the file.
    """
    return _read(path, "CounterFactDataset")


def _read(path: str | Path, dataset: str) -> list[dict[str, Any]]:
    easyeditor = import_easyedit()

    try:
        # CounterFactDataset prints how much it has read; standard output belongs to the caller.
        with contextlib.redirect_stdout(io.StringIO()):
            loaded = getattr(easyeditor, dataset)(str(path))
        return [request_fields(index, loaded[index]) for index in range(len(loaded))]
    except Exception as error:  # EasyEdit checks nothing: KeyError, AssertionError, TypeError, …
        detail = f"{type(error).__name__}: {error}"
        raise DataError(f"{path}: EasyEdit's {dataset} can't read this file: {detail}") from error
