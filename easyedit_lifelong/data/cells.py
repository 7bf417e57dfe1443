"""JSON in the cells of a table: lists and objects, which CSV and TSV can only hold as text."""

from __future__ import annotations

from typing import Any

from easyedit_lifelong.parsing import parse_json


def parse_cell(text: str) -> Any:
    """Return the list or object that a text holds as JSON.

    Raises:
        ValueError: the text is something else.
    """
    try:
        value = parse_json(text)
    except ValueError as error:
        python = " Python's own notation is not JSON: write the cell with json.dumps." if "'" in text else ""
        reason = f"not valid JSON: {error}" if text.lstrip()[:1] in ("[", "{") else f"is {_shortened(text)!r}"
        raise ValueError(f"must hold a list or an object as JSON, but {reason}.{python}") from error
    if not isinstance(value, (list, dict)):
        raise ValueError(f"must hold a list or an object as JSON, but is {_shortened(text)!r}.")
    return value


def parse_list(text: str) -> list[Any] | str:
    """Return the list that a text holds as JSON, or the text if it holds none."""
    if text.lstrip()[:1] != "[":
        return text
    try:
        value: list[Any] = parse_cell(text)
    except ValueError:
        return text
    return value


def _shortened(text: str) -> str:
    """Return the beginning of a text, for messages."""
    return text if len(text) <= 40 else text[:37] + "..."
