"""Cells in local processes: failures, a killed process and its resumption, and the end of a sweep before its cells'."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing import forkserver
from pathlib import Path

import pytest

from easyedit_lifelong.runs.experiment import CONSECUTIVE, Data, Experiment
from easyedit_lifelong.runs.sweep import process_launcher
from easyedit_lifelong.runs.sweep.launcher import CellEnd
from easyedit_lifelong.runs.sweep.process_launcher import ProcessLauncher
from easyedit_lifelong.runs.sweep.run_cell import CellJob
from tests.support.sweep_jobs import (
    KILLED,
    LONG_REASON,
    assert_equal_runs,
    be_terminated,
    cell_job,
    fail_at_length,
    failures_of,
    kill_once,
    sleep,
)


def test_a_killed_cell_is_reported_and_resumes_to_the_same_end(
    tmp_path: Path, checkpoint: Path, whole_run: Path
) -> None:
    killed, broken = cell_job(tmp_path, checkpoint, KILLED), cell_job(tmp_path, tmp_path / "no-model", "broken")
    launcher = ProcessLauncher(2, 1, kill_once)
    failures = failures_of(launcher, [killed, broken])
    assert failures[KILLED] == "its process was killed (SIGKILL); perhaps the memory was used up"
    assert str(failures["broken"]).startswith(f"{tmp_path / 'no-model'}: no such folder.")
    assert "Traceback" in broken.log.read_text() and "ModelError" in broken.log.read_text()
    assert len((killed.folder / "journal.jsonl").read_text().splitlines()) == 2
    assert failures_of(launcher, [killed]) == {KILLED: None}
    assert_equal_runs(killed.folder, whole_run)


def test_a_long_reason_does_not_keep_a_cell_from_ending(tmp_path: Path) -> None:
    job = CellJob("long", Experiment(CONSECUTIVE, None, Data("")), tmp_path, tmp_path / "long.log", tmp_path)
    ends, deadline = ProcessLauncher(1, 1, fail_at_length).launch([job]), time.monotonic() + 60
    while (end := next(ends)) is None:
        assert time.monotonic() < deadline
    assert end == CellEnd("long", LONG_REASON)
    assert list(ends) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no server that forks processes")
def test_the_server_and_its_cells_ignore_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    """They inherit that; otherwise, Ctrl-C while the server imports the package would show a traceback."""
    handlers = []
    monkeypatch.setattr(forkserver, "ensure_running", lambda: handlers.append(signal.getsignal(signal.SIGINT)))
    before = signal.getsignal(signal.SIGINT)
    process_launcher._context()
    assert handlers == [signal.SIG_IGN]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.skipif(os.name == "nt", reason="Windows can't send this signal")
def test_a_cell_that_is_terminated_cleans_up(tmp_path: Path) -> None:
    job = CellJob("terminated", Experiment(CONSECUTIVE, None, Data("")), tmp_path, tmp_path / "x.log", tmp_path)
    failures = failures_of(ProcessLauncher(1, 1, be_terminated), [job])
    assert failures == {"terminated": "its process ended with signal 15"}
    assert [path.name for path in tmp_path.iterdir()] == ["x.log"]


def test_a_sweep_that_ends_early_stops_its_cells(tmp_path: Path, checkpoint: Path) -> None:
    ends = ProcessLauncher(1, 1, sleep).launch([cell_job(tmp_path, checkpoint, name) for name in ("a", "b")])
    pid_file, deadline = tmp_path / "a.pid", time.monotonic() + 60
    while not (pid_file.exists() and pid_file.read_text()):
        assert next(ends) is None and time.monotonic() < deadline
    ends.close()
    assert not os.path.exists(f"/proc/{pid_file.read_text()}")
    assert not (tmp_path / "b.pid").exists(), "more cells run than there are workers"
