"""Write a page, and its figures beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from easyedit_lifelong.atomic import atomic_file, delete_leftovers
from easyedit_lifelong.reporting.report import svg
from easyedit_lifelong.reporting.report.axes import Plot
from easyedit_lifelong.write_errors import translated_write_errors


def write_page(page: Path, html: str, plots: Sequence[Plot], prefix: str = "") -> list[Path]:
    """Write a page and the figures in it; return the files of the figures.

    Args:
        page: the file of the page; its folder is made if it does not exist.
        html: the page.
        plots: its figures, each of which is written as SVG and PNG.
        prefix: the beginning of the names of the figures' files.

    Raises:
        RunError: a file can't be written.
    """
    with translated_write_errors(page):
        page.parent.mkdir(parents=True, exist_ok=True)
        delete_leftovers(page.parent)
        write_text(page, html)
        return [file for plot in plots for file in svg.save(plot.figure, page.parent / f"{prefix}{plot.name}")]


def write_text(path: Path, text: str) -> None:
    """Write a text in one step. Lone surrogates, which generated text can contain, become question marks.

    Raises:
        OSError: the file can't be written.
    """
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace")
