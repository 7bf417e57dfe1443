"""Guess the format of a dataset from its first record, or from its name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from easyedit_lifelong.data import hub_datasets as hub
from easyedit_lifelong.data.json_files import holds_json_object, iterate_json_object
from easyedit_lifelong.data.reading_notes import ReadingNotes
from easyedit_lifelong.data.record_streams import iterate_records
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.paths import expanded_path
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.registry import DatasetReader

_BY_NAME = {
    "counterfact": {"prompt", "target_new", "ground_truth", "locality_prompt"},
    "hallucination": {"prompt", "target_new", "locality_prompt"},
}
"""Formats that have the fields of ``json``. A file has one of them if its name and its fields say so."""


def guess_format(path: Path | str) -> str:
    """Return the name of a dataset's format.

    The fields of the first record determine the format: of the formats whose required fields it has, the one that
    requires most. If there is none, the dataset's name determines it, as in the code of CoachHook's authors.

    Args:
        path: a file, or the name of a dataset (``hub:…``). Of the latter, only the name is used.
    """
    fields = set() if hub.is_hub_name(path) else _first_record_fields(expanded_path(path, DataError))
    name = (str(path) if hub.is_hub_name(path) else Path(path).name).lower()
    if not fields:
        return next((known for known in ("counterfact", "zsre", "hallucination") if known in name), "json")
    fitting = _fitting(fields)
    if fitting is not None and fitting.name == "zsre-rephrased" and "fever" in name:
        return "fever"  # KILT's form of FEVER has the fields of KILT's zsRE
    if fitting is None or fitting.name != "json" or name.endswith(".jsonl"):
        return fitting.name if fitting else "json"
    return next((known for known, needed in _BY_NAME.items() if known in name and fields >= needed), "json")


def format_advice(path: Path | str, used: DatasetReader | None) -> str:
    """Return a sentence about the format that a file has instead of the one it was read with; empty if that fits.

    Args:
        path: the file.
        used: the format that it was read with; None if that isn't a registered one.
    """
    fields = set() if hub.is_hub_name(path) else _first_record_fields(expanded_path(path, DataError))
    if not fields or used is None or not _missing(used, fields):
        return ""
    fitting = _fitting(fields)
    if fitting is not None:
        return f" Its first record has the fields of the format {fitting.name!r}: give --format {fitting.name}."
    nearest = max(_guessed(), key=lambda reader: len(reader.fields) - 2 * len(_missing(reader, fields)), default=None)
    if nearest is None or len(_missing(nearest, fields)) == len(nearest.fields):
        nearest_text = ""
    else:
        missing = " and ".join(name.replace("|", " or ") for name in _missing(nearest, fields))
        nearest_text = f" The nearest is {nearest.name!r}, which also needs {missing}."
    return (
        f" The fields of its first record ({', '.join(sorted(fields))}) fit no format.{nearest_text} A YAML file can "
        "map them to a request's fields: --format FILE.yaml."
    )


def _guessed() -> list[DatasetReader]:
    """Return the formats that can be recognised by their fields."""
    return [reader for reader in get_plugins().readers if reader.fields]


def _fitting(fields: set[str]) -> DatasetReader | None:
    """Return the format with the most required fields that a record with these fields has all of."""
    fitting = [reader for reader in _guessed() if not _missing(reader, fields)]
    return max(fitting, key=lambda reader: len(reader.fields), default=None)


def _missing(reader: DatasetReader, fields: Iterable[str]) -> list[str]:
    """Return the required fields of a format that a record doesn't have."""
    return [needed for needed in reader.fields if not set(needed.split("|")) & set(fields)]


def _first_record_fields(path: Path) -> set[str]:
    """Return the fields of a file's first record; an empty set if the file can't be read, which its reader reports."""
    try:
        if holds_json_object(path) and path.suffix.lower() == ".json":  # of records by their ids
            _, first = next(iterate_json_object(path, ReadingNotes(path)), (None, None))
        else:
            first = next(iterate_records(path), None)
    except DataError:
        return set()
    return set(first) if isinstance(first, dict) else set()
