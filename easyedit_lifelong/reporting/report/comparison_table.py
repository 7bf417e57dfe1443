"""The table that compares runs: for a page, in Markdown, and in LaTeX."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from easyedit_lifelong.reporting.report.read import RunFiles
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
    """A table of scores with a row for each run.

    Attributes:
        names: the runs' names.
        edits: number of edits of each run.
        metrics: the columns: names of scores, and the time per edit.
        cells: the scores by run, then by metric.
    """

    names: list[str]
    edits: list[int]
    metrics: list[str]
    cells: list[list[Score]]


def compare(runs: Sequence[RunFiles], names: Sequence[str], metrics: Sequence[str] | None = None) -> Comparison:
    """Return the comparison of runs; by default with their main scores and the time per edit.

    Args:
        runs: the runs.
        names: their names.
        metrics: the columns; None for the default.
    """
    scores = [{score.name: score for score in (*score_rows(run), *seconds_row(run))} for run in runs]
    seconds = [SECONDS] if any(SECONDS in by_name for by_name in scores) else []
    columns = [*main_names(runs), *seconds] if metrics is None else list(metrics)
    cells = [[by_name.get(metric, Score(metric, "")) for metric in columns] for by_name in scores]
    for column, metric in enumerate(columns):
        for row in best(metric, [cells_of_run[column].number for cells_of_run in cells]):
            cells[row][column] = replace(cells[row][column], best=True)
    return Comparison(list(names), [run.n_edits for run in runs], columns, cells)


def arrow(metric: str) -> str:
    """Return ↑ if a higher value of a metric is better, ↓ if a lower one is, else empty text."""
    return _ARROWS.get(direction(metric), "")


def markdown_table(table: Comparison) -> str:
    """Return the comparison in Markdown: a row for each run, intervals in brackets, the best values in bold."""

    def text(cell: Score) -> str:
        value = f"**{cell.value}**" if cell.best else cell.value
        return f"{value} {cell.interval.translate(_MARKDOWN)}".strip() or "-"

    head, *rows = _rows(table, text, _MARKDOWN, _ARROWS)
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, rule, *rows))


def latex_table(table: Comparison) -> str:
    """Return the comparison in LaTeX (package ``booktabs``): a row for each run, the best values in bold."""

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
    """Yield the header and the rows of a table as text, with special characters escaped.

    Args:
        table: the comparison.
        text: returns the text of a cell.
        escapes: the special characters and their escaped form, for ``str.translate``.
        arrows: the arrow for each direction.
    """
    heads = [f"{metric.translate(escapes)} {arrows.get(direction(metric), '')}".strip() for metric in table.metrics]
    yield ["run", "edits", *heads]
    for name, edits, cells in zip(table.names, table.edits, table.cells, strict=True):
        yield [name.translate(escapes), str(edits), *map(text, cells)]
