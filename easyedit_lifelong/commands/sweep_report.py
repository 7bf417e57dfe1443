"""Write the pages and the tables of a sweep: one page of all cells, and one for each model and data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from easyedit_lifelong.commands.report import PAGE, write_report, write_tables
from easyedit_lifelong.reporting.report.comparison_table import Comparison
from easyedit_lifelong.reporting.report.page_files import write_page
from easyedit_lifelong.reporting.report.read import read_run
from easyedit_lifelong.reporting.report.run_files import RunFiles
from easyedit_lifelong.reporting.report.seed_tables import seed_tables
from easyedit_lifelong.reporting.report.style import figure_options
from easyedit_lifelong.reporting.report.sweep_page import SweepSection, sweep_page
from easyedit_lifelong.runs.compared_methods import REPORT
from easyedit_lifelong.runs.sweep.sweep_plan import Cell, SweepPlan


@dataclass(frozen=True)
class SweepReport:
    """What was written about a sweep.

    Attributes:
        page: the page of all cells.
        files: the tables beside it.
        tables: the tables that compare the methods, for each model and data set.
    """

    page: Path
    files: list[Path]
    tables: list[Comparison]


def write_sweep_report(plan: SweepPlan, warnings: Sequence[str] = ()) -> SweepReport | None:
    """Write the pages and the tables of the finished cells; return None if there are none.

    Args:
        plan: the sweep.
        warnings: sentences for the top of the page.

    Raises:
        RunError: a file can't be written.
    """
    finished = [(cell, read_run(cell.run.folder)) for cell in plan.cells if cell.run.finished]
    if not finished:
        return None
    page = plan.out / REPORT / PAGE
    n_missing = len(plan.cells) - len(finished)
    missing = [f"{n_missing} of {len(plan.cells)} cells are not finished, and not in the tables."] if n_missing else []
    sections = []
    for model, data in dict.fromkeys((cell.model, cell.data) for cell, _ in finished):
        of_section = [(cell, run) for cell, run in finished if (cell.model, cell.data) == (model, data)]
        sections.append(_write_section(f"{model}, {data}", f"{model}/{data}/{PAGE}", of_section, page))
    tables = [table for section in sections for table in _titled(section, len(sections) > 1)]
    write_page(page, sweep_page(sections, len(plan.cells), [*missing, *warnings]), [])
    files = write_tables(page.parent, tables, [run for _, run in finished], [cell.name for cell, _ in finished])
    return SweepReport(page, files, tables)


def _write_section(title: str, details: str, cells: Sequence[tuple[Cell, RunFiles]], page: Path) -> SweepSection:
    """Write the page that compares the cells of one model and data set, and return its part of the sweep's page.

    Args:
        title: the title of the part.
        details: the path of the page to write, relative to the folder of the sweep's page.
        cells: the cells, each with its run.
        page: the sweep's page.
    """
    by_method: dict[str, list[RunFiles]] = {}
    for cell, run in cells:
        by_method.setdefault(cell.method, []).append(run)
    several_seeds = len({cell.seed for cell, _ in cells}) > 1
    names = [f"{cell.method}, seed {cell.seed}" if several_seeds else cell.method for cell, _ in cells]
    with figure_options():
        write_report([run for _, run in cells], page.parent / details, names)
    n_seeds = max(len(of_method) for of_method in by_method.values())
    return SweepSection(title, seed_tables(by_method), details, {cell.name: run for cell, run in cells}, n_seeds)


def _titled(section: SweepSection, several: bool) -> list[Comparison]:
    """Return the tables of a section; if there are several sections, with its title in theirs."""
    if not several:
        return list(section.tables)
    return [dataclasses.replace(table, title=f"{section.title}: {table.title}") for table in section.tables]
