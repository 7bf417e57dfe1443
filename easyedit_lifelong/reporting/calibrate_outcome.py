"""Show the outcome of a calibration: tables for the terminal and for a Markdown file, and a picture with plots."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from rich.console import Console
from rich.text import Text

from easyedit_lifelong.methods.calibrator import PlotPanel, TextTable
from easyedit_lifelong.reporting.console_tables import plain_table
from easyedit_lifelong.reporting.report.generations import printable
from easyedit_lifelong.reporting.report.style import INK, MUTED, figure_options, new_figure, series_style
from easyedit_lifelong.reporting.report.svg import svg_text

_DPI = 120


def markdown_table(table: TextTable) -> str:
    """Return a table as Markdown, with its title above it."""
    rule = ["---"] * table.left + ["---:"] * (len(table.headers) - table.left)
    lines = "\n".join(f"| {' | '.join(cells)} |" for cells in [table.headers, rule, *table.rows])
    return f"**{table.title}**\n\n{lines}\n"


def show(console: Console, table: TextTable) -> None:
    """Print a table."""
    rich_table = plain_table(f"\n{table.title}")
    for column, header in enumerate(table.headers):
        is_text = column < table.left
        rich_table.add_column(header, justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text)
    for row in table.rows:
        rich_table.add_row(*map(Text, row))
    console.print(rich_table)


def panels_images(panels: Sequence[PlotPanel]) -> tuple[bytes, str]:
    """Return plots side by side as the content of a PNG and of an SVG file; a circle marks the chosen point of each."""
    with figure_options():
        figure = new_figure(5.5 * len(panels), 4.2)
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _draw(axes, panel)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
        return buffer.getvalue(), svg_text(figure)


def _draw(axes: Axes, panel: PlotPanel) -> None:
    """Draw one plot."""
    for series in panel.series:
        style = series_style(series.number)
        if series.style == "dotted":
            style |= {"marker": None, "linestyle": "dotted", "linewidth": 1.2}
        elif series.style == "crosses":
            style |= {"marker": "x", "linestyle": "none"}
        elif series.style == "points":
            style |= {"linestyle": "none"}
        axes.plot(*zip(*series.points, strict=True), label=printable(series.label), **style)
        for point, text in series.notes.items():
            axes.annotate(text, point, xytext=(4, 4), textcoords="offset points", fontsize=7, color=MUTED)
    x, y = panel.chosen
    axes.plot([x], [y], linestyle="none", marker="o", markersize=13, markerfacecolor="none", markeredgecolor=INK)
    axes.set(title=printable(panel.title), xlabel=printable(panel.x_label), ylabel=printable(panel.y_label))
    if panel.ticks:
        axes.set_xticks(range(len(panel.ticks)), [printable(name) for name in panel.ticks])
    if panel.y_range is not None:
        axes.set_ylim(panel.y_range)
    if any(series.label for series in panel.series):
        axes.legend(loc="best")
