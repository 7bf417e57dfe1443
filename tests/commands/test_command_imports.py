"""Commands start quickly: parsing imports nothing slow, and commands that read folders import no code of models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.format_1 import FOLDER
from tests.support.report_runs import write_run

SLOW = {"accelerate", "easyeditor", "matplotlib", "numpy", "torch", "transformers"}
"""Packages whose import takes long."""

OF_MODELS = {"torch._dynamo", "transformers.modeling_utils"}
"""What transformers imports for every model. It takes longer than torch."""


def imported_by(script: str) -> list[set[str]]:
    """Run a script; return the modules of interest that are imported at each call of its function ``show``."""
    looked_for = sorted(SLOW | OF_MODELS)
    show = f"def show():\n    print('imported:', *(name for name in {looked_for} if name in sys.modules))\n"
    process = subprocess.run(
        [sys.executable, "-c", f"import sys\nfrom easyedit_lifelong.commands.main import *\n{show}{script}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    lines = [line for line in process.stdout.splitlines() if line.startswith("imported:")]
    return [set(line.split()[1:]) for line in lines]


def test_help_completion_and_wrong_usage_import_nothing_slow() -> None:
    lines = ["build_parser()", "show()"]  # the parsers of all commands
    for words in (
        ["compare", "--help"],
        ["compare", "--methods", "GRACE,,MEMIT", "--out", "d"],
        ["locate", "--sweep-layers", "3-1"],
        ["--print-completion", "bash"],
    ):
        lines += ["try:", f"    main({words})", "except SystemExit:", "    show()"]
    assert imported_by("\n".join(lines)) == [set()] * 5


def test_commands_that_only_read_import_no_code_of_models(tmp_path: Path) -> None:
    lines = []
    for words in (
        ["inspect", str(FOLDER / "GRACE")],
        ["plugins", "--methods"],
        ["report", str(write_run(tmp_path / "run"))],
    ):
        lines += [f"assert main({words}) == 0", "show()"]
    *tables, report = imported_by("\n".join(lines))
    assert len(tables) == 2
    for imported in tables:
        assert not imported & {*OF_MODELS, "easyeditor", "matplotlib"}
    assert "matplotlib" in report
    assert not report & {*OF_MODELS, "easyeditor"}
