"""The notebooks of the repository, and their code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.documents import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(notebook: Path, kind: str = "code") -> list[dict[str, Any]]:
    """Return the cells of a kind: ``code`` or ``markdown``."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    return [cell for cell in content["cells"] if cell["cell_type"] == kind]


def code_of(notebook: Path) -> list[str]:
    """Return the code of each code cell."""
    return ["".join(cell["source"]) for cell in cells(notebook)]


def run_notebook(notebook: Path, replaced: dict[str, str] | None = None) -> dict[str, Any]:
    """Run the code cells of a notebook in this process, in the current folder.

    Args:
        notebook: the notebook.
        replaced: texts of its code, each with another one to run instead.

    Returns:
        The variables at the end.
    """
    variables: dict[str, Any] = {"__name__": "__main__"}
    for number, code in enumerate(code_of(notebook)):
        for old, new in (replaced or {}).items():
            code = code.replace(old, new)
        exec(compile(code, f"{notebook.name}, code cell {number}", "exec", dont_inherit=True), variables)
    return variables
