"""The pages of the Python interface: every public name, by the module that defines it."""

from __future__ import annotations

import re

import easyedit_lifelong

PAGES = {
    "models-and-data": ("Models and data", r"models\.|data\.|covariance"),
    "methods": ("Methods", r"methods\.(?!shared)\w+\."),
    "edits": ("Saved edits", r"edits"),
    "runs": ("Runs and scores", r"runs\.|evaluation\."),
    "locate": ("Locating facts", r"locate\."),
    "plugins": ("Plugins", r"methods\.(shared\.|\w+$)|registry|hookspecs|hparams_files|hyperparams|plugins|snapshots"),
    "errors": ("Errors", r"errors"),
}
"""The title of each page, and a pattern of the modules, within the package, whose public names it has."""

_INTRODUCTION = "All of these names can be imported from `easyedit_lifelong` itself."


def api_pages() -> dict[str, str]:
    """Return the pages by their path in the site. Their Markdown names objects, which mkdocstrings documents."""
    return {f"reference/api/{page}.md": _page_text(page, names) for page, names in names_of_pages().items()}


def _page_text(page: str, names: list[str]) -> str:
    """Return a page. The members of hyperparameter classes are left out: their keys have a page."""
    title, _ = PAGES[page]
    text = f"# {title}\n\n{_INTRODUCTION}\n\n"
    for name in names:
        text += f"::: easyedit_lifelong.{name}\n"
        if name.endswith("HyperParams") and page == "methods":
            text += "    options:\n      members: false\n"
        text += "\n"
    return text


def names_of_pages() -> dict[str, list[str]]:
    """Return the public names of each page, classes first.

    Raises:
        ValueError: a name belongs to no page, or to several.
    """
    names: dict[str, list[str]] = {page: [] for page in PAGES}
    for name in sorted(easyedit_lifelong.__all__):
        module = easyedit_lifelong._LAZY.get(name, "easyedit_lifelong.errors").removeprefix("easyedit_lifelong.")
        pages = [page for page, (_, pattern) in PAGES.items() if re.match(pattern, module)]
        if len(pages) != 1:
            raise ValueError(f"{name} is defined in {module}, which belongs to the pages {pages}: change PAGES")
        names[pages[0]].append(name)
    return names
