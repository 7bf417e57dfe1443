"""The tables of a comparison on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from easyedit_lifelong.reporting.console_tables import plain_table
from easyedit_lifelong.reporting.report.comparison_table import Comparison, arrow


def print_tables(console: Console, tables: Sequence[Comparison]) -> None:
    """Print the tables of a comparison, with the best values in bold and a dash for a missing value."""
    for table in tables:
        shown = plain_table(f"\n{table.title}")
        shown.add_column("run", no_wrap=True)
        for header in ("edits", "scored", *(f"{metric} {arrow(metric)}".strip() for metric in table.metrics)):
            shown.add_column(header, justify="right", overflow="fold")
        for name, edits, scored, cells in zip(table.names, table.edits, table.scored, table.cells, strict=True):
            values = [Text(cell.value or "-", style="bold" if cell.best else "") for cell in cells]
            shown.add_row(Text(name), str(edits), "-" if scored is None else str(scored), *values)
        console.print(shown)
