"""The page of a sweep: for each model and data, a table with a row for each method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from easyedit_lifelong.plurals import counted
from easyedit_lifelong.reporting.report.comparison_table import Comparison, arrow
from easyedit_lifelong.reporting.report.page import render_page
from easyedit_lifelong.reporting.report.run_files import RunFiles


@dataclass(frozen=True)
class SweepSection:
    """The part of the page about one model and one data set.

    Attributes:
        title: its title.
        tables: the tables that compare the methods.
        details: the page that compares the single runs, relative to the page of the sweep.
        runs: the runs, by the names of their cells.
        n_seeds: the largest number of seeds of a method.
    """

    title: str
    tables: Sequence[Comparison]
    details: str
    runs: dict[str, RunFiles]
    n_seeds: int


def sweep_page(sections: Sequence[SweepSection], n_cells: int, warnings: Sequence[str]) -> str:
    """Return the page of a sweep as HTML.

    Args:
        sections: its parts.
        n_cells: the number of cells of the grid.
        warnings: sentences for the top of the page.
    """
    n_finished = sum(len(section.runs) for section in sections)
    return render_page(
        "sweep.html.j2",
        [],
        title=f"Sweep of {counted(n_cells, 'cell')}, {n_finished} finished",
        sections=sections,
        warnings=warnings,
        several_seeds=any(section.n_seeds > 1 for section in sections),
        arrow=arrow,
    )
