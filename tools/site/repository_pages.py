"""Pages of the site for files outside ``docs``, and links to them.

Documents link to files of the repository by relative paths, which a source host follows. The site holds a page for each
of these files, so that the same links work there.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The repository."""

FILES = [
    "README.md",
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/README.md",
    "easyedit_lifelong/data/samples/README.md",
    "examples/plugin/easyedit_lifelong_biasedit.py",
    "examples/plugin/pyproject.toml",
    "notebooks/README.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "notebooks").glob("*.ipynb")),
]
"""The files outside ``docs`` that have a page."""

_LINK = re.compile(r"""(\]\(|\b(?:src|srcset|href)=")([^)\s"#]+)""")
"""The path of a link or of an image, in Markdown or HTML, and what stands before it."""


def repository_pages() -> dict[str, str]:
    """Return the pages of :data:`FILES`: the Markdown text by its path in the site."""
    return {page_uri(path): _page_text(path) for path in FILES}


def page_uri(path: str) -> str:
    """Return the path in the site of a file.

    Args:
        path: path of the file, relative to the repository.
    """
    if path == "README.md":
        return "index.md"
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"repository/{path}" if path.endswith(".md") else f"repository/{path}.md"


def site_links(text: str, path: str) -> str:
    """Replace links that leave ``docs``, or come from outside of it, by links within the site.

    A link to a file without a page stays as it is, so ``mkdocs build --strict`` reports it.

    Args:
        text: a document.
        path: its path, relative to the repository.

    Returns:
        The document, with links relative to its page.
    """

    def replace(match: re.Match[str]) -> str:
        if "://" in match[2]:
            return match[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), match[2]))
        if target not in FILES and not target.startswith("docs/"):
            return match[0]
        return match[1] + posixpath.relpath(page_uri(target), posixpath.dirname(page_uri(path)) or ".")

    return _LINK.sub(replace, text)


def _page_text(path: str) -> str:
    """Return the page of a file: its text, its cells, or, of other files, a heading and the file as code."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".md"):
        return site_links(text, path)
    if path.endswith(".ipynb"):
        return notebook_text(text)
    language = {".py": "python", ".toml": "toml", ".cff": "yaml"}[posixpath.splitext(path)[1]]
    return f"# {posixpath.basename(path)}\n\n`{path}`\n\n```{language}\n{text}```\n"


def notebook_text(notebook: str) -> str:
    """Return the cells of a notebook as Markdown; code cells become blocks of Python.

    Args:
        notebook: the content of the file, whose cells have no outputs.
    """
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(notebook)["cells"]]
    return "\n\n".join(text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in cells) + "\n"
