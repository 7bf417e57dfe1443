"""Hooks that MkDocs calls: they add generated pages, and pages of the repository outside ``docs``, to the site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from api_pages import api_pages
from command_page import command_page
from hyperparameter_page import hyperparameter_page
from mkdocs.structure.files import File, Files
from repository_pages import ROOT, repository_pages, site_links


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are no files of ``docs``."""
    pages = {
        **repository_pages(),
        **api_pages(),
        "reference/commands.md": command_page(),
        "reference/hyperparameters.md": hyperparameter_page(),
    }
    for uri, text in pages.items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Replace links to files outside ``docs`` by links to their pages."""
    if page.file.abs_src_path is None:  # a generated page
        return markdown
    return site_links(markdown, Path(page.file.abs_src_path).relative_to(ROOT).as_posix())
