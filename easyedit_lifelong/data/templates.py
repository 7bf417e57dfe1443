"""Text templates: ``{name}`` stands for a value, ``{{`` and ``}}`` for braces."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from easyedit_lifelong.data.cells import parse_cell

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|[{}]")


@dataclass(frozen=True)
class Template:
    """A text with places for values.

    Attributes:
        text: the template as it is written.
        parts: its parts, in order: ``(text, None)``, or ``("", name)`` for a place.
    """

    text: str
    parts: tuple[tuple[str, str | None], ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Parse a template.

        Raises:
            ValueError: a brace is neither doubled nor part of ``{name}``.
        """
        parts: list[tuple[str, str | None]] = []
        end = 0
        for match in _TOKEN.finditer(text):
            parts.append((text[end : match.start()], None))
            token, name = match.group(), match.group(1)
            if token in "{}":
                raise ValueError(f"{token!r} at position {match.start()} is not part of {{name}}; a brace is doubled")
            parts.append(("", name.strip()) if name is not None else (token[0], None))
            end = match.end()
        parts.append((text[end:], None))
        return cls(text, tuple(part for part in parts if part != ("", None)))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the values."""
        return tuple(name for _, name in self.parts if name is not None)

    def fill(self, value_of: Callable[[str], Any]) -> str:
        """Return the text with the values that ``value_of`` returns for the names."""
        return "".join(text if name is None else str(value_of(name)) for text, name in self.parts)


def look_up(record: Mapping[str, Any], name: str) -> Any:
    """Return a value of a record by its column's name; None if it is absent.

    If no column has the name, its dots separate keys and indices of nested values: ``answers.0.text``. A text on the
    way, such as the cell of a table, is read as JSON.

    Raises:
        ValueError: a text on the way isn't a list or an object as JSON.
    """
    if name in record:
        return record[name]
    value: Any = record
    for key in name.split("."):
        if isinstance(value, str):
            if not value.strip():
                return None
            value = parse_cell(value)
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, Sequence) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value
