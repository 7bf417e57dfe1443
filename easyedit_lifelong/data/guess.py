"""Tell a dataset's format by what is in it."""

from __future__ import annotations

import json
from pathlib import Path

from easyedit_lifelong.data import hub_datasets as hub

_ZSRE, _REPHRASED = {"src", "alt", "loc"}, {"input", "output"}
_COUNTERFACT = {"prompt", "target_new", "ground_truth", "locality_prompt"}
_HALLUCINATION = {"prompt", "target_new", "locality_prompt"}
_LABELLED = {"text", "label"}


def guess_format(path: Path | str) -> str:
    """Return the format of a dataset: by a file's first record, else by its name, as CoachHook's authors do.

    Args:
        path: a file, or a dataset by name (``hub:…``), of which only the name is looked at.
    """
    fields = set() if hub.is_name(path) else _fields(Path(path).expanduser())
    name = str(path) if hub.is_name(path) else Path(path).name
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
        known = {"counterfact": _COUNTERFACT, "hallucination": _HALLUCINATION}
        return next((form for form, needed in known.items() if form in name and fields >= needed), "json")
    return next((known for known in ("counterfact", "zsre", "hallucination") if known in name), "json")


def _fields(path: Path) -> set[str]:
    """Return the fields of a file's first record; none if it can't be read (its reader will say so)."""
    try:
        text = path.read_text(encoding="utf-8")
        records = json.loads(text.split("\n", 1)[0] if path.suffix == ".jsonl" else text)
    except (OSError, ValueError):
        return set()
    first = records[0] if isinstance(records, list) and records else records
    return set(first) if isinstance(first, dict) else set()
