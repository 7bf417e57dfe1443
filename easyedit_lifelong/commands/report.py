"""The command ``report``: write a page with figures and tables of one run, or a comparison of several."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.paths import expanded_path
from easyedit_lifelong.plurals import counted
from easyedit_lifelong.reporting.console_tables import print_line
from easyedit_lifelong.reporting.report.comparison_data import comparison_csv, comparison_json
from easyedit_lifelong.reporting.report.comparison_table import Comparison, comparison_tables
from easyedit_lifelong.reporting.report.comparison_text import latex_tables, markdown_tables
from easyedit_lifelong.reporting.report.names import run_names
from easyedit_lifelong.reporting.report.page import comparison_page, run_page
from easyedit_lifelong.reporting.report.page_files import translated_write_errors, write_page, write_text
from easyedit_lifelong.reporting.report.read import read_run
from easyedit_lifelong.reporting.report.run_files import RunFiles
from easyedit_lifelong.reporting.report.style import figure_options
from easyedit_lifelong.reporting.terminal import Console

PAGE = "report.html"
_COMPARISON = Path("runs/comparison")


def run(arguments: argparse.Namespace) -> int:
    """Write the report of one run, or a comparison of several; replace an earlier report of the same name.

    Figures (SVG and PNG) are written beside the page; for several runs, also tables (Markdown, LaTeX, CSV
    and JSON).

    Raises:
        RunError: a folder holds no run, or the report can't be written.
    """
    console = Console()
    runs = [read_run(folder) for folder in arguments.folders]
    page = _page_path(runs, arguments.out)
    with figure_options():
        files = write_report(runs, page)
    for source in runs:
        for note in source.notes:
            print_line(console, f"{source.folder}: {note}")
    kinds = ", ".join(sorted({file.suffix.removeprefix(".") for file in files}))
    print_line(console, f"Report: {page}")
    if files:
        console.print(f"Beside it: {counted(len(files), 'file')} ({kinds})", highlight=False)
    return 0


def write_report(
    runs: Sequence[RunFiles], page: Path, names: Sequence[str] | None = None, warnings: Sequence[str] = ()
) -> list[Path]:
    """Write a page, its figures and its tables. Call this function within :func:`figure_options`.

    Args:
        runs: the runs; one for a report, several for a comparison.
        page: the HTML file.
        names: the names of the runs in a comparison, which can then be of one run; None for the default names.
        warnings: sentences for the top of the page of a comparison.

    Returns:
        The written files, without the page.

    Raises:
        RunError: a file can't be written.
    """
    is_comparison = len(runs) > 1 or names is not None
    names = run_names(runs) if names is None else names
    html, plots = comparison_page(runs, names, warnings) if is_comparison else run_page(runs[0])
    # If the user named the page, the names of the other files begin with its name.
    prefix = "" if page.name == PAGE else f"{page.stem}-"
    files = write_page(page, html, plots, prefix)
    if is_comparison:
        files += write_tables(page.parent, comparison_tables(runs, names), runs, names, prefix)
    return files


def write_tables(
    folder: Path, tables: Sequence[Comparison], runs: Sequence[RunFiles], names: Sequence[str], prefix: str = ""
) -> list[Path]:
    """Write the tables of a comparison: Markdown, LaTeX, and CSV and JSON with all scores of each run.

    Args:
        folder: the folder for the files.
        tables: the tables.
        runs: the runs.
        names: their names.
        prefix: the beginning of the files' names.

    Returns:
        The files.

    Raises:
        RunError: a file can't be written.
    """
    texts = {
        "md": markdown_tables(tables),
        "tex": latex_tables(tables),
        "csv": comparison_csv(runs, names),
        "json": comparison_json(runs, names),
    }
    files = {folder / f"{prefix}table.{ending}": text for ending, text in texts.items()}
    for file, text in files.items():
        with translated_write_errors(file):
            write_text(file, text)
    return list(files)


def _page_path(runs: Sequence[RunFiles], out: Path | None) -> Path:
    """Return the path of the page. ``--out`` is the page itself or its folder.

    Raises:
        RunError: ``--out`` is a file without the ending ``.html``.
    """
    if out is None:
        return (runs[0].folder / "report" if len(runs) == 1 else _COMPARISON) / PAGE
    out = expanded_path(out, RunError)
    if out.suffix.lower() in (".html", ".htm") and not out.is_dir():
        return out
    if out.exists() and not out.is_dir():
        raise RunError(f"{out}: is a file whose name doesn't end in .html; --out must be a page or a folder")
    return out / PAGE
