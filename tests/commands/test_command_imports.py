"""Commands start quickly: parsing imports nothing slow, and commands that read folders import no code of models."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import torch

from easyedit_lifelong import EditRecord, EditRequest, EditsPart
from easyedit_lifelong.edits.edits_folder import STEPS_VERSION, write_index
from easyedit_lifelong.edits.step_entries import step_file
from easyedit_lifelong.edits.step_files import write_step
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
    lines = [f"assert main({['report', str(write_run(tmp_path / 'run'))]}) == 0", "show()"]
    assert imported_by("\n".join(lines)) == [{"matplotlib", "numpy"}]
    lines = []
    for words in (["inspect", str(FOLDER / "GRACE")], ["plugins", "--methods"]):
        lines += [f"assert main({words}) == 0", "show()"]
    tables = imported_by("\n".join(lines))
    assert len(tables) == 2
    for imported in tables:
        assert not imported & {*OF_MODELS, "easyeditor", "matplotlib"}


def test_reports_of_runs_with_saved_edits_import_no_torch(tmp_path: Path) -> None:
    """They read the steps of ``state/``, and show the sections that the methods add."""
    lines, pages = [], {"GRACE": "Codebook growth", "CoachHook": "α by batch"}
    for method in pages:
        state = write_run(tmp_path / method, method=method) / "state"
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir()
        write_index(state, STEPS_VERSION, {"model": {}, "parts": []})
        record = EditRecord.of(EditRequest(0, "the capital of France is", "Rome")).to_dict()
        batch = {"edits": 1, "alphas": {"model.layers.3": 1.5}}
        write_step(step_file(state, 1), EditsPart({}, [record], {"batches": [batch]}, {"key": torch.zeros(2)}), "")
    folders = [str(tmp_path / method) for method in pages]
    for words in ([folders[0]], [folders[1]], [*folders, "--out", str(tmp_path / "both")]):
        lines += [f"assert main({['report', *words]}) == 0", "show()"]
    assert imported_by("\n".join(lines)) == [{"matplotlib", "numpy"}] * 3
    for method, title in pages.items():
        page = (tmp_path / method / "report" / "report.html").read_text(encoding="utf-8")
        assert title in page
        assert "can't be read" not in page
