"""The names that scripts in ``benchmarks/`` and ``examples/`` import exist. Tests run one benchmark only."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted([*ROOT.glob("benchmarks/*.py"), *ROOT.glob("examples/**/*.py")])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_imported_names_exist(script: Path) -> None:
    imports = [node for node in ast.walk(ast.parse(script.read_text("utf-8"))) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in imports if (node.module or "").split(".")[0] == "easyedit_lifelong"]
    for node in ours:
        module = importlib.import_module(node.module or "")
        for alias in node.names:
            # A name may also be a submodule.
            assert hasattr(module, alias.name) or importlib.import_module(f"{node.module}.{alias.name}"), alias.name
