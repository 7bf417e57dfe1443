"""A calibration's tables, the same for the terminal and for the file."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from easyedit_lifelong.methods.calibrator import TextTable


def markdown(table: TextTable) -> str:
    """Return a table as Markdown, with its title before it."""
    rule = ["---"] * table.left + ["---:"] * (len(table.headers) - table.left)
    lines = "\n".join(f"| {' | '.join(cells)} |" for cells in [table.headers, rule, *table.rows])
    return f"**{table.title}**\n\n{lines}\n"


def show(console: Console, table: TextTable) -> None:
    """Print a table."""
    grid = Table(title=f"\n{table.title}", title_justify="left", box=None, pad_edge=False)
    for number, header in enumerate(table.headers):
        text = number < table.left
        grid.add_column(header, justify="left" if text else "right", overflow="fold", no_wrap=not text)
    for row in table.rows:
        grid.add_row(*map(Text, row))
    console.print(grid)
