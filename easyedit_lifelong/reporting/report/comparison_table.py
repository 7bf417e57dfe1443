"""Runs side by side as tables: for a page, in Markdown, and in LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from easyedit_lifelong.reporting.report.read import Run
from easyedit_lifelong.reporting.report.score_rows import SECONDS, best, direction, main_names, shown, shown_interval

_ARROWS = {"higher": "↑", "lower": "↓"}
_LATEX_ARROWS = {"higher": r"$\uparrow$", "lower": r"$\downarrow$"}
_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "·": r"$\cdot$",
})  # fmt: skip
_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\|*_`<>[]"})


@dataclass(frozen=True)
class Cell:
    """One number of a comparison; empty where a run has none."""

    value: str = ""
    interval: str = ""
    best: bool = False


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
    cells: list[list[Cell]]


def compare(runs: Sequence[Run], names: Sequence[str], metrics: Sequence[str] | None = None) -> Comparison:
    """Put runs side by side, on their main scores or on those asked for."""
    columns = list(main_names(runs) if metrics is None else metrics)
    values = [[run.scores().get(metric) for run in runs] for metric in columns]
    intervals = [[run.intervals().get(metric) for run in runs] for metric in columns]
    seconds = [run.timing.get("seconds_per_edit") for run in runs]
    if metrics is None and any(one is not None for one in seconds):
        columns.append(SECONDS)
        values.append(seconds)
        intervals.append([None] * len(runs))
    cells: list[list[Cell]] = [[] for _ in runs]
    for metric, column, spans in zip(columns, values, intervals, strict=True):
        top = best(metric, column)
        for number, (value, span) in enumerate(zip(column, spans, strict=True)):
            text = "" if value is None else f"{value:.2f}" if metric == SECONDS else shown(value, metric)
            cells[number].append(Cell(text, shown_interval(span, metric), number in top))
    return Comparison(list(names), [run.n_edits for run in runs], columns, cells)


def arrow(metric: str) -> str:
    """Return an arrow to where a metric is better, or nothing."""
    return _ARROWS.get("lower" if metric == SECONDS else direction(metric), "")


def markdown_table(table: Comparison) -> str:
    """Return the comparison in Markdown: a row for each run, intervals in brackets, the best in bold."""
    head = ["run", "edits", *(f"{metric.translate(_MARKDOWN)} {arrow(metric)}".strip() for metric in table.metrics)]
    lines = [_row(head), _row(["---"] + ["---:"] * (len(head) - 1))]
    for name, edits, cells in zip(table.names, table.edits, table.cells, strict=True):
        numbers = [
            f"{f'**{cell.value}**' if cell.best else cell.value} {cell.interval.translate(_MARKDOWN)}".strip() or "-"
            for cell in cells
        ]
        lines.append(_row([name.translate(_MARKDOWN), str(edits), *numbers]))
    return "\n".join(lines) + "\n"


def latex_table(table: Comparison) -> str:
    """Return the comparison in LaTeX: needs ``booktabs``; rows, intervals and bold as in Markdown."""
    heads = ["run", "edits"]
    for metric in table.metrics:
        way = _LATEX_ARROWS.get("lower" if metric == SECONDS else direction(metric), "")
        heads.append(f"{metric.translate(_LATEX)} {way}".strip())
    lines = [
        "% needs \\usepackage{booktabs}", rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}", r"\toprule",
        " & ".join(heads) + r" \\", r"\midrule",
    ]  # fmt: skip
    for name, edits, cells in zip(table.names, table.edits, table.cells, strict=True):
        numbers = []
        for cell in cells:
            value = rf"\textbf{{{cell.value}}}" if cell.best else cell.value
            numbers.append(f"{value} {{\\scriptsize {cell.interval}}}" if cell.interval else value or "--")
        lines.append(" & ".join([name.translate(_LATEX), str(edits), *numbers]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
