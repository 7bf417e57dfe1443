"""Read the journal and the scores of an interrupted run, and check what a resumed run uses of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.report_sections import is_number
from easyedit_lifelong.parsing import parse_json

Check = Callable[[Any, Mapping[str, Any]], bool]
"""Returns whether the value of a field is valid; the second argument is the line. A missing field is None."""


def is_text(value: Any, _: Mapping[str, Any]) -> bool:
    """Return whether a value is a text."""
    return isinstance(value, str)


def is_count(value: Any, _: Mapping[str, Any]) -> bool:
    """Return whether a value is a whole number that is not negative."""
    return type(value) is int and value >= 0


def _is_number_or_missing(value: Any, _: Mapping[str, Any]) -> bool:
    return value is None or is_number(value)


def _is_status(value: Any, _: Mapping[str, Any]) -> bool:
    return isinstance(value, str) and value in ("edited", "failed", "skipped")


def _is_success(value: Any, line: Mapping[str, Any]) -> bool:
    return line.get("status") == "skipped" or is_number(value)


def _are_scores(value: Any, _: Mapping[str, Any]) -> bool:
    return value is None or (isinstance(value, dict) and all(map(_are_score_values, value.values())))


def _are_intervals(value: Any, _: Mapping[str, Any]) -> bool:
    if value is None:
        return True
    return isinstance(value, dict) and all(_are_score_values(ends) and len(ends) == 2 for ends in value.values())


def _are_score_values(values: Any) -> bool:
    """Return whether a value is a list of numbers. They need not be finite: a perplexity can be infinite."""
    return isinstance(values, list) and all(is_number(x) or isinstance(x, float) for x in values)


JOURNAL_FIELDS: Mapping[str, Check] = {
    "status": _is_status,
    "n_edits": is_count,
    "ES": _is_success,
    "scores": _are_scores,
    "seconds": _is_number_or_missing,
    "seconds_io": _is_number_or_missing,
    "seconds_scoring": _is_number_or_missing,
}
SCORING_FIELDS: Mapping[str, Check] = {
    "n_edits": is_count,
    "n_seen": is_count,
    "seconds_scoring": _is_number_or_missing,
    "intervals": _are_intervals,
}


def read_lines(
    path: Path, fields: Mapping[str, Check], consequence: str = "this run can't be resumed"
) -> list[dict[str, Any]]:
    """Return the lines of a JSON Lines file, without a last line that was written only in part.

    Args:
        path: the file; if it does not exist, it has no lines.
        fields: the fields that a resumed run uses, each with its check.
        consequence: the end of a message about a line that can't be used.

    Raises:
        RunError: the file cannot be read, or a line before the last is not JSON or has an invalid field.
    """
    try:
        lines = path.read_bytes().split(b"\n") if path.exists() else []
    except OSError as error:
        raise RunError(f"{path}: can't be read: {error.strerror}") from error
    entries = []
    for number, line in enumerate(lines[:-1], 1):  # after the last newline: nothing, or an incomplete line
        try:
            entry = parse_json(line)
        except ValueError as error:
            raise RunError(f"{path}, line {number}: is not JSON; {consequence}") from error
        if not isinstance(entry, dict):
            raise RunError(f"{path}, line {number}: isn't a JSON object; {consequence}")
        for name, is_valid in fields.items():
            if not is_valid(entry.get(name), entry):
                raise RunError(f"{path}, line {number}: {name} can't be {entry.get(name)!r}; {consequence}")
        entries.append(entry)
    return entries
