"""Tables and lines of text for the terminal, in the same style for all commands."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from easyedit_lifelong.evaluation.metrics import METRICS
from easyedit_lifelong.reporting.terminal import can_show
from easyedit_lifelong.reporting.terminal_text import visible
from easyedit_lifelong.reporting.units import byte_text, duration_text

_BEFORE = "_before"
_WIDTH_FOR_DEFINITIONS = 120
"""The least width of a console, in characters, at which definitions have a column beside the scores."""
_TIMES = {
    "preparing": "seconds_preparing",
    "editing": "seconds_editing",
    "scoring": "seconds_scoring",
    "writing": "seconds_io",
}
_LEAST_REST = 0.1
"""The least time outside of the parts above that is shown, in seconds."""
_MEMORY = {"peak_process": "of memory at most", "saved_per_edit": "on disk an edit"}


def plain_table(title: str | Text | None = None, **options: Any) -> Table:
    """Return an empty table without borders, with its title above it on the left.

    Args:
        title: the title.
        options: other options of :class:`rich.table.Table`.
    """
    return Table(title=title, title_justify="left", box=None, pad_edge=False, **options)


def score_table(console: Console, metrics: Mapping[str, float], title: str) -> None:
    """Print scores and those of the unedited model, with the kind and the definition of each.

    The definition is the last column or, on a terminal too narrow for that, the line below the scores.
    """
    rows = {}
    for name, spec in METRICS.items():
        scores = (metrics.get(name + _BEFORE), metrics.get(name))
        if not name.endswith(_BEFORE) and scores != (None, None):
            rows[name] = (name, *(_score_text(score, spec.kind) for score in scores), spec.kind)
    if console.width < _WIDTH_FOR_DEFINITIONS:
        _print_with_definitions_below(console, rows, title)
        return
    table = plain_table(title)
    table.add_column("metric", no_wrap=True)
    table.add_column("before", justify="right")
    table.add_column("score", justify="right")
    table.add_column("kind")
    table.add_column("what it is", overflow="fold")
    for name, cells in rows.items():
        table.add_row(*cells, METRICS[name].meaning)
    console.print(table)


def _print_with_definitions_below(console: Console, rows: Mapping[str, Sequence[str]], title: str) -> None:
    """Print the rows of scores, by metric, each with the metric's definition in the lines below it."""
    header = ("metric", "before", "score", "kind")
    widths = [max(map(len, column)) for column in zip(header, *rows.values(), strict=True)]

    def line(cells: Sequence[str]) -> str:
        name, before, score, kind = cells
        return f"{name:<{widths[0]}}  {before:>{widths[1]}}  {score:>{widths[2]}}  {kind}"

    console.print(Text(title, style="table.title"))
    console.print(Text(line(header), style="table.header"), soft_wrap=True)
    for name, cells in rows.items():
        console.print(Text(line(cells)), soft_wrap=True)
        console.print(Padding(Text(METRICS[name].meaning, style="dim"), (0, 0, 0, 2)))


def _score_text(score: float | None, kind: str) -> str:
    """Return a score as text: a whole number for a count, three decimals for others; empty text for None."""
    if score is None:
        return ""
    return f"{score:.0f}" if kind == "count" and score == round(score) else f"{score:.3f}"


def harness_table(console: Console, results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Print the scores of lm-evaluation-harness before and after the edits; nothing without results.

    Args:
        console: the console.
        results: the entry ``lm_eval`` of ``summary.json``.
    """
    if not results:
        return
    table = plain_table("\nlm-evaluation-harness")
    table.add_column("task", overflow="fold")
    table.add_column("metric", no_wrap=True)
    for header in ("before", "after"):
        table.add_column(header, justify="right")
    for task, scores in results.items():
        for metric, score in scores.items():
            values = (score["before"], score["after"])
            table.add_row(Text(task), Text(metric), *("" if value is None else f"{value:.3f}" for value in values))
    console.print(table)


def closing_lines(console: Console, summary: Mapping[str, Any], out: Path) -> None:
    """Print the costs of a run, the numbers of failed and skipped requests, and the folder of the results."""
    timing, memory = summary["timing"], summary.get("memory", {})
    seconds = {name: timing[key] for name, key in _TIMES.items() if timing.get(key)}
    rest = timing["seconds_total"] - sum(seconds.values())
    if rest >= _LEAST_REST:
        seconds["other"] = rest
    times = [f"{name} {duration_text(part)}" for name, part in seconds.items()]
    costs = [f"{duration_text(timing['seconds_total'])} ({', '.join(times)})"]
    costs += [f"{byte_text(memory[key])} {what}" for key, what in _MEMORY.items() if key in memory]
    lines = (
        f"\n{timing['seconds_per_edit']:.2f} s an edit (mean); "
        f"{summary['n_failed']} failed, {summary['n_skipped']} skipped.",
        f"{'; '.join(costs)}.",
        f"Results: {out}",
    )
    for line in lines:
        print_line(console, line)


def answer_table(console: Console, rows: Iterable[Sequence[str]], headers: Sequence[str], title: str) -> None:
    """Print a table of prompts and answers."""
    table = plain_table(title)
    for header in headers:
        table.add_column(header, overflow="fold")
    add_text_rows(table, rows)
    console.print(table)


def add_text_rows(table: Table, rows: Iterable[Sequence[str]]) -> None:
    """Add rows of text to a table; newlines become spaces, and brackets are not read as markup."""
    for row in rows:
        table.add_row(*(Text(" ".join(cell.split())) for cell in row))


def print_line(console: Console, line: str) -> None:
    """Print a line of text unchanged: without markup, colours or line breaks at the width of the terminal."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def print_json(console: Console, value: Any) -> None:
    """Print a value as JSON, with escapes for control characters and for characters that the encoding lacks."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    if not can_show(console, text):
        text = json.dumps(value, indent=1)
    console.file.write(visible(text) + "\n")
