"""The ``report`` command: read runs, write the page, its figures and tables, and say where they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from easyedit_lifelong.atomic import replacing
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.reporting.report import svg
from easyedit_lifelong.reporting.report.axes import Plot
from easyedit_lifelong.reporting.report.comparison_table import compare, latex_table, markdown_table
from easyedit_lifelong.reporting.report.names import run_names
from easyedit_lifelong.reporting.report.page import comparison_page, run_page
from easyedit_lifelong.reporting.report.read import Run, read_run
from easyedit_lifelong.reporting.report.style import drawing

PAGE = "report.html"
_COMPARISON = Path("runs/comparison")


def report_session(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Report one run, or several side by side.

    Args:
        folders: the runs' folders.
        out: the page (a name that ends in ``.html``) or a folder for it; the default is ``report/`` in the
            run's folder, and ``runs/comparison`` for several runs. An earlier report there is replaced.

    Returns:
        The page. Figures (SVG and PNG) lie beside it, and for several runs their table (Markdown and LaTeX).

    Raises:
        RunError: a folder holds no run, or the report can't be written.
    """
    console = Console()
    runs = [read_run(folder) for folder in folders]
    page = _page_path(runs, out)
    with drawing():
        files = write_report(runs, page)
    for run in runs:
        for note in run.notes:
            console.print(f"{run.folder}: {note}", highlight=False, markup=False, soft_wrap=True)
    kinds = ", ".join(sorted({file.suffix.removeprefix(".") for file in files}))
    console.print(f"Report: {page}", highlight=False, markup=False, soft_wrap=True)
    if files:
        console.print(f"Beside it: {len(files)} files ({kinds})", highlight=False, markup=False)
    return page


def write_report(runs: Sequence[Run], page: Path) -> list[Path]:
    """Write a page and what lies beside it; return the latter. To be called while :func:`drawing`.

    Raises:
        RunError: something can't be written.
    """
    several = len(runs) > 1
    names = run_names(runs)
    html, plots = comparison_page(runs, names) if several else run_page(runs[0])
    # In a folder of its own a figure needs no other name; beside a page that was named, it takes the page's.
    prefix = "" if page.name == PAGE else f"{page.stem}-"
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        _write(page, html)
        files = [file for plot in plots for file in _save(plot, page.parent / f"{prefix}{plot.name}")]
        if several:
            table = compare(runs, names)
            for ending, text in ((".md", markdown_table(table)), (".tex", latex_table(table))):
                files.append(page.with_name(f"{prefix}table{ending}"))
                _write(files[-1], text)
    except OSError as error:
        raise RunError(f"{error.filename or page}: can't be written: {error.strerror or error}") from error
    return files


def _save(plot: Plot, stem: Path) -> list[Path]:
    return svg.save(plot.figure, stem)


def _write(path: Path, text: str) -> None:
    # Generated text can hold halves of characters, which no file can.
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace")


def _page_path(runs: Sequence[Run], out: Path | None) -> Path:
    if out is None:
        return (runs[0].folder / "report" if len(runs) == 1 else _COMPARISON) / PAGE
    out = out.expanduser()
    if out.suffix.lower() in (".html", ".htm") and not out.is_dir():
        return out
    if out.exists() and not out.is_dir():
        raise RunError(f"{out}: is a file, and no page (.html) by its name; --out names a page or a folder")
    return out / PAGE
