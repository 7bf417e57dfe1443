"""Read datasets with EasyEdit's own loaders, as plain dictionaries in EasyEdit's request fields."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from easyedit_lifelong.bridge.locate import require_easyedit
from easyedit_lifelong.errors import DataError

_FIELDS = (
    "case_id", "prompt", "target_new", "subject", "ground_truth", "rephrase_prompt",
    "locality_prompt", "locality_ground_truth",
)  # fmt: skip
_PORTABILITY = "portability_"
_SPECIFIC = ("relation_specificity_prompt", "relation_specificity_ground_truth")
"""Fields of our own, which EasyEdit's loaders don't know."""


def read_zsre(path: str | Path) -> list[dict[str, Any]]:
    """Read a file in zsRE's format with EasyEdit's ``ZsreDataset``.

    EasyEdit leaves out records without a target, and it drops the relation specificity prompt and (the
    2023 release) the subject, which are brought back from the file; ``case_id`` is the record's index in
    the file.

    Raises:
        EasyEditMissingError: EasyEdit isn't there.
        DataError: EasyEdit can't read the file.
    """
    raw, records = _read(path, "ZsreDataset")
    for record in records:
        source = raw[record["case_id"]]
        if "subject" not in record and source.get("subject"):
            record["subject"] = source["subject"]
        record.update({name: source[name] for name in _SPECIFIC if name in source})
    return records


def read_counterfact(path: str | Path) -> list[dict[str, Any]]:
    """Read a file in EasyEdit's CounterFact format with its ``CounterFactDataset``.

    ``case_id`` is the record's own, or its index in the file where it has none.

    Raises:
        EasyEditMissingError: EasyEdit isn't there.
        DataError: EasyEdit can't read the file.
    """
    return _read(path, "CounterFactDataset")[1]


def _read(path: str | Path, dataset: str) -> tuple[list[Mapping[str, Any]], list[dict[str, Any]]]:
    require_easyedit()
    import easyeditor

    try:
        with open(path, encoding="utf-8") as file:
            raw = json.load(file)
        # CounterFactDataset prints how much it has read; standard output belongs to the caller.
        with contextlib.redirect_stdout(io.StringIO()):
            loaded = getattr(easyeditor, dataset)(str(path))
        records = [_request(index, loaded[index]) for index in range(len(loaded))]
    except Exception as error:  # EasyEdit checks nothing: KeyError, AssertionError, TypeError, …
        detail = f"{type(error).__name__}: {error}"
        raise DataError(f"{path}: EasyEdit's {dataset} can't read this file: {detail}") from error
    return raw, records


def _request(index: int, record: Mapping[str, Any]) -> dict[str, Any]:
    request = {
        key: value for key, value in record.items() if key in (*_FIELDS, *_SPECIFIC) or key.startswith(_PORTABILITY)
    }
    request.setdefault("case_id", index)
    return request
