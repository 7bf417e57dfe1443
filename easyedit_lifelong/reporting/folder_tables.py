"""Tables of saved edits, for the verbs that work on folders of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from easyedit_lifelong.reporting.console_tables import add_text_rows, plain_table

EDIT = "prompt → target"
"""The header of the column that shows an edit."""

_FOLDED = (EDIT, "of", "edits")
_PIPED_WIDTH = 120


def wide_console() -> Console:
    """Return a console that is wide enough for these tables if its output is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, _PIPED_WIDTH))


def text_table(console: Console, rows: Sequence[Sequence[str]], headers: Sequence[str], title: str) -> None:
    """Print a table: columns of numbers are aligned on the right, and only columns of long text are folded."""
    table = plain_table(Text(title))
    for number, header in enumerate(headers):
        numeric = bool(rows) and all(_is_number(row[number]) for row in rows)
        table.add_column(header, justify="right" if numeric else "left", overflow="fold", no_wrap=header not in _FOLDED)
    add_text_rows(table, rows)
    console.print(table)


def cell_text(value: Any) -> str:
    """Return a value as the text of a table's cell."""
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_number(text: str) -> bool:
    try:
        float(text or 0)
    except ValueError:
        return False
    return True
