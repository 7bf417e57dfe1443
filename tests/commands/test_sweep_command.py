"""``sweep``: cells, page and tables; failures, interruptions and continuation; what is refused."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from easyedit_lifelong.commands import sweep_session
from easyedit_lifelong.folder_lock import lock_folder
from easyedit_lifelong.reporting.report import page
from easyedit_lifelong.runs.sweep import sweep_grid
from easyedit_lifelong.runs.sweep.launcher import CellEnd
from tests.support.command_line import CommandLine
from tests.support.launcher_in_process import LauncherInThisProcess
from tests.support.sweep_grids import write_grid


class SweepCommand(CommandLine):
    """``sweep`` with a valid grid."""

    def __init__(self, folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__(folder, checkpoint, capsys)
        self.out, self.grid = folder / "out", write_grid(folder, checkpoint)

    def run(self, *words: Any, **_: Any) -> tuple[int, str, str]:
        return super().run("sweep", self.grid, "--out", self.out, *words)

    def table(self) -> dict[str, Any]:
        """Return the content of the JSON table."""
        return json.loads((self.out / "report" / "table.json").read_text())


@pytest.fixture
def process_cli(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> SweepCommand:
    """``sweep`` without figures, which take longer to draw than the cells take."""
    monkeypatch.setattr(page, "comparison_plots", lambda runs, names: ([], []))
    return SweepCommand(tmp_path, checkpoint, capsys)


@pytest.fixture
def sweep_cli(process_cli: SweepCommand, monkeypatch: pytest.MonkeyPatch) -> SweepCommand:
    """The same, with cells in this process."""
    monkeypatch.setattr(sweep_session, "_launcher", lambda *_: LauncherInThisProcess())
    return process_cli


def test_every_cell_is_a_run_and_one_page_compares_their_means(sweep_cli: SweepCommand) -> None:
    code, out, err = sweep_cli.run()
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == "Cells: 0 finished earlier, 0 to resume, 4 to begin. Requests: 8"
    assert "[4/4] far/tiny/facts/seed-1: finished; 2 requests" in lines
    for cell in ("near/tiny/facts/seed-0", "far/tiny/facts/seed-1"):
        summary = json.loads((sweep_cli.out / "cells" / cell / "summary.json").read_text())
        assert (summary["n_edits"], summary["hparams"]["seed"]) == (2, int(cell[-1]))
    report = sweep_cli.out / "report"
    assert [run["run"] for run in sweep_cli.table()["runs"]] == [
        f"{method}/tiny/facts/seed-{seed}" for seed in (0, 1) for method in ("near", "far")
    ]
    table = (report / "table.md").read_text()
    assert "| near, 2 seeds |" in table and " ± 0.000" in table and "| unedited" in table
    assert {file.name for file in report.iterdir() if file.is_file()} == set(sweep_grid._REPORT_FILES)
    html, details = (report / "report.html").read_text(), (report / "tiny" / "facts" / "report.html").read_text()
    assert "Sweep of 4 cells, 4 finished" in html and 'href="tiny/facts/report.html"' in html
    assert "far, seed 1" in details


def test_finished_cells_are_only_shown_again_and_the_page_has_those_of_the_grid(sweep_cli: SweepCommand) -> None:
    near = {"near": "near.yaml"}
    write_grid(sweep_cli.folder, sweep_cli.checkpoint, methods=near)
    assert sweep_cli.run()[0] == 0
    summary = sweep_cli.out / "cells" / "near" / "tiny" / "facts" / "seed-0" / "summary.json"
    before = summary.read_bytes()
    write_grid(sweep_cli.folder, sweep_cli.checkpoint, methods=near, seeds=[0])
    out = sweep_cli.output_of()
    assert out.splitlines()[0] == "Cells: 1 finished earlier, 0 to resume, 0 to begin. Requests: 0"
    assert summary.read_bytes() == before
    assert [run["run"] for run in sweep_cli.table()["runs"]] == ["near/tiny/facts/seed-0"]


@pytest.mark.parametrize(
    "loop", [{}, {"loop": "lifelong", "schedule": {"every": 1}, "only_errors": True}], ids=["consecutive", "lifelong"]
)
def test_finished_cells_are_compared_with_their_folders_if_the_settings_of_the_sweep_are_lost(
    sweep_cli: SweepCommand, loop: dict[str, Any]
) -> None:
    def write(**values: Any) -> None:
        of_near = {"methods": {"near": "near.yaml"}, "seeds": [0], "retention": None, **loop}
        write_grid(sweep_cli.folder, sweep_cli.checkpoint, **{**of_near, **values})

    write()
    assert sweep_cli.run()[0] == 0
    settings = sweep_cli.out / "sweep.yaml"
    before = settings.read_bytes()
    settings.unlink()
    for values, change in (
        ({"edits": 1}, "data.edits was 2, is 1"),
        ({"methods": {"near": "far.yaml"}}, "hparams.eps was 0.5, is 5.0"),
        ({"skip_unusable": True}, "is True"),
        ({"carry_over": True}, "carry_over was 'nothing', is True"),
        ({"self_consistency": True}, "self_consistency was 'nothing', is True"),
        ({"task": "generation"}, "task was 'qa', is 'generation'"),
    ):
        write(**values)
        error = sweep_cli.error_of()
        assert "holds a sweep with other settings. near/tiny/facts/seed-0: " in error and change in error
        assert not settings.exists()
    write()
    assert sweep_cli.output_of().startswith("Cells: 1 finished earlier, 0 to resume, 0 to begin")
    assert settings.read_bytes() == before


def test_a_cell_that_fails_is_reported_and_the_same_command_runs_it_again(process_cli: SweepCommand) -> None:
    broken = process_cli.folder / "broken"
    models = {"broken": str(broken), "tiny": str(process_cli.checkpoint)}
    write_grid(process_cli.folder, process_cli.checkpoint, models=models, seeds=None, methods={"near": "near.yaml"})
    code, out, err = process_cli.run("--workers", 2)
    assert code == 1 and "Traceback" not in out + err
    name, log = "near/broken/facts/seed-0", process_cli.out / "logs" / "near" / "broken" / "facts" / "seed-0.log"
    reason = f"{broken}: no such folder."
    assert any(line.startswith(f"{name} failed: {reason}") and f"(log: {log})" in line for line in out.splitlines())
    last = "1 of 2 cells failed. The same command runs them again, and leaves finished cells as they are."
    assert out.splitlines()[-1] == last
    html = (process_cli.out / "report" / "report.html").read_text()
    assert f"{name} failed: {reason}" in html and "1 of 2 cells are not finished" in html
    assert [run["run"] for run in process_cli.table()["runs"]] == ["near/tiny/facts/seed-0"]
    assert "Traceback" in log.read_text()
    shutil.copytree(process_cli.checkpoint, broken)
    assert process_cli.output_of().splitlines()[:2] == [
        "Cells: 1 finished earlier, 0 to resume, 1 to begin. Requests: 2",
        f"[2/2] {name}: finished; 2 requests",
    ]
    assert "**broken, facts: Edited facts, teacher-forced**" in (process_cli.out / "report" / "table.md").read_text()


def test_a_log_that_does_not_exist_is_not_named(sweep_cli: SweepCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that was killed has written none."""
    write_grid(sweep_cli.folder, sweep_cli.checkpoint, seeds=[0], methods={"near": "near.yaml"})
    killed = SimpleNamespace(launch=lambda jobs: (CellEnd(job.name, "its Ray worker failed") for job in jobs))
    monkeypatch.setattr(sweep_session, "_launcher", lambda *_: killed)
    code, out, _ = sweep_cli.run()
    assert code == 1
    assert "near/tiny/facts/seed-0 failed: its Ray worker failed" in out.splitlines()


def test_an_interrupted_sweep_says_how_to_continue(sweep_cli: SweepCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    write_grid(sweep_cli.folder, sweep_cli.checkpoint, seeds=[0])
    with monkeypatch.context() as patch:
        patch.setattr(sweep_session, "_launcher", lambda *_: LauncherInThisProcess(interrupt_after=1))
        code, _, err = sweep_cli.run()
    assert code == 130
    message = "easyedit-lifelong: interrupted; the same command resumes the cells that are not finished"
    assert err.splitlines()[-1] == message
    assert sweep_cli.output_of().startswith("Cells: 1 finished earlier, 0 to resume, 1 to begin")


def test_two_sweeps_cannot_write_one_folder(sweep_cli: SweepCommand) -> None:
    sweep_cli.out.mkdir()
    lock = lock_folder(sweep_cli.out)
    assert lock is not None
    assert "another process is running this sweep" in sweep_cli.error_of()
    lock.release()


def test_a_launcher_that_cannot_be_used_is_refused(sweep_cli: SweepCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    message = sweep_cli.error_of("--launcher", "ray", "--workers", 2)
    assert message.startswith("--workers: is for local processes")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for launcher, package in (("ray", "ray"), ("slurm", "submitit")):
        message = sweep_cli.error_of("--launcher", launcher)
        assert message.startswith(f"--launcher {launcher} needs {package}: ")
        assert message.endswith(f"pip install 'easyedit-lifelong[{launcher}]'")
