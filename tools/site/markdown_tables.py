"""Tables in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from docstring_roles import plain_roles


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; cells are Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def plain(text: str) -> str:
    """Return a docstring's text as Markdown that shows it unchanged, on one line.

    Text between backticks stays code, and so do the names in Sphinx's roles, such as :class:`Name`.
    """
    text = plain_roles(" ".join(text.split())).replace("``", "`")
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([\\*_<>\[\]{}])", r"\\\1", part) for part in parts)


def code(text: str) -> str:
    """Return text as code."""
    return f"`{text}`" if text else ""
