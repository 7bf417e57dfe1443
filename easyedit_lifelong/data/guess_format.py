"""Guess the format of a dataset from its first record, or from its name."""

from __future__ import annotations

import json
from pathlib import Path

from easyedit_lifelong.data import hub_datasets as hub

_ZSRE, _REPHRASED = {"src", "alt", "loc"}, {"input", "output"}
_COUNTERFACT = {"prompt", "target_new", "ground_truth", "locality_prompt"}
_HALLUCINATION = {"prompt", "target_new", "locality_prompt"}
_LABELLED = {"text", "label"}


def guess_format(path: Path | str) -> str:
    """Return the name of a dataset's format.

    The fields of the first record determine the format. If they don't, the dataset's name does, as in the code of
    CoachHook's authors.

    Args:
        path: a file, or the name of a dataset (``hub:…``). Of the latter, only the name is used.
    """
    fields = set() if hub.is_hub_name(path) else _first_record_fields(Path(path).expanduser())
    name = str(path) if hub.is_hub_name(path) else Path(path).name
    name = name.lower()
    if fields >= _REPHRASED:
        return "zsre-rephrased"
    if fields >= _LABELLED:
        return "labelled"
    if name.endswith(".jsonl"):
        return "json"  # EasyEdit's loaders read JSON lists only
    if fields >= _ZSRE:
        return "zsre"
    if fields:
        required = {"counterfact": _COUNTERFACT, "hallucination": _HALLUCINATION}
        return next((known for known, needed in required.items() if known in name and fields >= needed), "json")
    return next((known for known in ("counterfact", "zsre", "hallucination") if known in name), "json")


def _first_record_fields(path: Path) -> set[str]:
    """Return the fields of a file's first record; an empty set if the file can't be read, which its reader reports."""
    try:
        text = path.read_text(encoding="utf-8")
        records = json.loads(text.split("\n", 1)[0] if path.suffix == ".jsonl" else text)
    except (OSError, ValueError):
        return set()
    first = records[0] if isinstance(records, list) and records else records
    return set(first) if isinstance(first, dict) else set()
