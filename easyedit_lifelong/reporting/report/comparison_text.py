"""Tables that compare runs, as Markdown and LaTeX."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence

from easyedit_lifelong.reporting.report.comparison_table import ARROWS, Comparison
from easyedit_lifelong.reporting.report.score_rows import Score, direction

_WIDTH = 100
"""Number of columns at which captions are broken into lines."""

_LATEX_ARROWS = {"higher": r"$\uparrow$", "lower": r"$\downarrow$"}
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "·": r"$\cdot$",
    }
)
_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\|*_`<>[]"})


def markdown_tables(tables: Sequence[Comparison]) -> str:
    """Return comparisons in Markdown, each with its caption: a row for each run, the best values in bold.

    The cells are padded, so that the tables can also be read as plain text. Intervals are left out, since they would
    make the rows too long for that.
    """
    return "\n".join(
        f"**{table.title.translate(_MARKDOWN)}**\n\n"
        f"{textwrap.fill(_caption(table, '-').translate(_MARKDOWN), _WIDTH)}\n\n{markdown_table(table)}"
        for table in tables
    )


def markdown_table(table: Comparison) -> str:
    """Return one comparison in Markdown, without its caption."""

    def text(cell: Score) -> str:
        value = cell.value.translate(_MARKDOWN)
        return f"**{value}**" if cell.best else value or "-"

    rows = list(_rows(table, text, _MARKDOWN, ARROWS, "-"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    padded = [
        [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        for row in rows
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in (padded[0], rule, *padded[1:]))


def latex_tables(tables: Sequence[Comparison]) -> str:
    """Return comparisons in LaTeX (package ``booktabs``), each after a comment with its caption.

    A row for each run, the best values in bold, intervals in small type.
    """
    return "\n".join(
        ["% needs \\usepackage{booktabs}"]
        + [
            "\n".join(f"% {line}" for line in textwrap.wrap(f"{table.title}. {_caption(table, '--')}", _WIDTH))
            + f"\n{latex_table(table)}"
            for table in tables
        ]
    )


def latex_table(table: Comparison) -> str:
    """Return one comparison in LaTeX, without its caption."""

    def text(cell: Score) -> str:
        escaped = cell.value.translate(_LATEX)
        value = rf"\textbf{{{escaped}}}" if cell.best else escaped
        return f"{value} {{\\scriptsize {cell.interval}}}" if cell.interval else value or "--"

    head, *rows = (" & ".join(row) + r" \\" for row in _rows(table, text, _LATEX, _LATEX_ARROWS, "--"))
    lines = [
        rf"\begin{{tabular}}{{l{'r' * (2 + len(table.metrics))}}}",
        r"\toprule",
        head,
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _caption(table: Comparison, missing: str) -> str:
    """Return a table's caption, with the meaning of its signs; ``missing`` stands for a missing value."""
    directions = {direction(metric) for metric in table.metrics}
    signs = "".join(f" {ARROWS[name]}: {name} is better." for name in ("higher", "lower") if name in directions)
    bold = " Bold: the best value." if any(cell.best for cells in table.cells for cell in cells) else ""
    return f"{table.caption}{signs}{bold} {missing}: no value.".strip()


def _rows(
    table: Comparison, text: Callable[[Score], str], escapes: dict[int, str], arrows: Mapping[str, str], missing: str
) -> Iterator[list[str]]:
    """Yield the header and the rows of a table as text, with special characters escaped.

    Args:
        table: the comparison.
        text: returns the text of a cell.
        escapes: the special characters and their escaped form, for ``str.translate``.
        arrows: the arrow for each direction.
        missing: stands for a missing number.
    """
    heads = [f"{metric.translate(escapes)} {arrows.get(direction(metric), '')}".strip() for metric in table.metrics]
    yield ["run", "edits", "scored", *heads]
    for name, edits, scored, cells in zip(table.names, table.edits, table.scored, table.cells, strict=True):
        yield [
            name.translate(escapes),
            str(edits),
            missing if scored is None else str(scored),
            *map(text, cells),
        ]
