"""Tables of saved edits, for the commands that work on folders of edits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import console as rich_console
from rich.text import Text

from easyedit_lifelong.reporting.console_tables import add_text_rows, plain_table
from easyedit_lifelong.reporting.terminal import Console

EDIT = "prompt → target"
"""The header of the column with the edits."""

_FOLDED_COLUMNS = (EDIT, "of", "edits")
_WIDTH_WITHOUT_TERMINAL = 120


def wide_console() -> Console:
    """Return a console; without a terminal, it is wide enough for these tables."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, _WIDTH_WITHOUT_TERMINAL))


def text_table(
    console: rich_console.Console, rows: Sequence[Sequence[str]], headers: Sequence[str], title: str
) -> None:
    """Print a table. Columns of numbers are aligned right; only columns of long text have line breaks."""
    table = plain_table(Text(title))
    for number, header in enumerate(headers):
        numeric = bool(rows) and all(_is_number(row[number]) for row in rows)
        table.add_column(
            header, justify="right" if numeric else "left", overflow="fold", no_wrap=header not in _FOLDED_COLUMNS
        )
    add_text_rows(table, rows)
    console.print(table)


def cell_text(value: Any) -> str:
    """Return a value as the text of a cell; empty text for None."""
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_number(text: str) -> bool:
    """Return whether a text is a number, or empty."""
    try:
        float(text or 0)
    except ValueError:
        return False
    return True
