"""Runs side by side as tables: for a page, in Markdown, and in LaTeX."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from easyedit_lifelong.reporting.report.read import Run
from easyedit_lifelong.reporting.report.score_rows import (
    SECONDS,
    Score,
    best,
    direction,
    main_names,
    score_rows,
    seconds_row,
)

_ARROWS = {"higher": "↑", "lower": "↓"}
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


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
        names: the runs' names.
        edits: how many edits each made.
        metrics: the columns: scores and the time an edit took.
        cells: by run, then by metric.
    """

    names: list[str]
    edits: list[int]
    metrics: list[str]
    cells: list[list[Score]]


def compare(runs: Sequence[Run], names: Sequence[str], metrics: Sequence[str] | None = None) -> Comparison:
    """Put runs side by side, on their main scores and the time an edit took, or on the scores given."""
    rows = [{row.name: row for row in (*score_rows(run), *seconds_row(run))} for run in runs]
    seconds = [SECONDS] if any(SECONDS in row for row in rows) else []
    columns = [*main_names(runs), *seconds] if metrics is None else list(metrics)
    cells = [[row.get(metric, Score(metric, "")) for metric in columns] for row in rows]
    for n, metric in enumerate(columns):
        for number in best(metric, [row[n].number for row in cells]):
            cells[number][n] = replace(cells[number][n], best=True)
    return Comparison(list(names), [run.n_edits for run in runs], columns, cells)


def arrow(metric: str) -> str:
    """Return an arrow to where a metric is better, or nothing."""
    return _ARROWS.get(direction(metric), "")


def markdown_table(table: Comparison) -> str:
    """Return the comparison in Markdown: a row for each run, intervals in brackets, the best in bold."""

    def text(cell: Score) -> str:
        value = f"**{cell.value}**" if cell.best else cell.value
        return f"{value} {cell.interval.translate(_MARKDOWN)}".strip() or "-"

    head, *rows = _rows(table, text, _MARKDOWN, _ARROWS)
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, rule, *rows))


def latex_table(table: Comparison) -> str:
    """Return the comparison in LaTeX: needs ``booktabs``; rows, intervals and bold as in Markdown."""

    def text(cell: Score) -> str:
        value = rf"\textbf{{{cell.value}}}" if cell.best else cell.value
        return f"{value} {{\\scriptsize {cell.interval}}}" if cell.interval else value or "--"

    head, *rows = (" & ".join(row) + r" \\" for row in _rows(table, text, _LATEX, _LATEX_ARROWS))
    lines = [
        "% needs \\usepackage{booktabs}",
        rf"\begin{{tabular}}{{l{'r' * (1 + len(table.metrics))}}}",
        r"\toprule",
        head,
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _rows(
    table: Comparison, text: Callable[[Score], str], escapes: dict[int, str], arrows: Mapping[str, str]
) -> Iterator[list[str]]:
    """Yield the head of a table and its rows, as texts in which special characters are escaped."""
    heads = [f"{metric.translate(escapes)} {arrows.get(direction(metric), '')}".strip() for metric in table.metrics]
    yield ["run", "edits", *heads]
    for name, edits, cells in zip(table.names, table.edits, table.cells, strict=True):
        yield [name.translate(escapes), str(edits), *map(text, cells)]
