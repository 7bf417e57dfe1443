"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from easyedit_lifelong.evaluation.metrics import METRICS
from easyedit_lifelong.plugins import get_plugins

_BEFORE = "_before"


def score_table(console: Console, metrics: Mapping[str, float], title: str) -> None:
    """Print scores, the unedited model's beside them, with how each was taken and what it means."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("metric", no_wrap=True)
    table.add_column("before", justify="right")
    table.add_column("score", justify="right")
    table.add_column("kind")
    table.add_column("what it is", overflow="fold")
    for name, spec in METRICS.items():
        scores = (metrics.get(name + _BEFORE), metrics.get(name))
        if not name.endswith(_BEFORE) and scores != (None, None):
            shown = ("" if score is None else f"{score:.3f}" for score in scores)
            table.add_row(name, *shown, spec.kind, spec.meaning)
    console.print(table)


def closing_line(console: Console, summary: Mapping[str, Any], out: Path) -> None:
    """Print what a run took and where its results are."""
    console.print(
        f"\n{summary['timing']['seconds_per_edit']:.2f} s an edit; {summary['n_failed']} failed, "
        f"{summary['n_skipped']} skipped. Results: {out}",
        highlight=False,
        markup=False,
    )


def answer_table(console: Console, rows: Iterable[Sequence[str]], headers: Sequence[str], title: str) -> None:
    """Print answers side by side."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        # Generated text can hold newlines, and brackets that rich would take for markup: Text takes none.
        table.add_row(*(Text(" ".join(cell.split())) for cell in row))
    console.print(table)


def plugin_table() -> None:
    """Print every registered method, dataset format and tracker, and where each comes from."""
    plugins = get_plugins()
    console = Console()
    table = Table(box=None, pad_edge=False)
    for header in ("kind", "name", "from plugin", "what it is"):
        table.add_column(header, overflow="fold")
    for method in plugins.methods:
        doc = (method.hparams_class.__doc__ or "").strip().splitlines()
        table.add_row("method", method.name, plugins.methods.origin(method.name), doc[0] if doc else "")
    for registry, kind in ((plugins.readers, "format"), (plugins.trackers, "tracker")):
        for entry in registry:
            table.add_row(kind, entry.name, registry.origin(entry.name), entry.description)
    for name, problem in plugins.broken.items():
        table.add_row("[red]broken[/red]", name, "entry point", Text(problem))
    console.print(table)


def say(console: Console, line: str) -> None:
    """Print a line of text as it is: no markup in it, no colours, not cut where the window ends."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)
