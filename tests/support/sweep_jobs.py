"""Cells of sweeps as launchers get them, and what cells do in the tests of launchers, in other processes."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from easyedit_lifelong.atomic import atomic_file
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.runs.experiment import CONSECUTIVE, Data, Experiment
from easyedit_lifelong.runs.run_folder import RunFolder
from easyedit_lifelong.runs.sweep.launcher import CellEnd, Launcher
from easyedit_lifelong.runs.sweep.run_cell import CellJob, run_cell
from tests.support.command_killer import observed
from tests.support.command_line import FACTS, HPARAMS

KILLED = "killed"
"""The name of the cell that :func:`kill_once` kills, and the beginning of the name of a file that records it."""


def cell_job(folder: Path, checkpoint: Path | str, name: str) -> CellJob:
    """Return a cell that edits three facts, one at a time, with GRACE."""
    facts = Path(checkpoint).parent / "facts.json"  # the same file for all cells, since results name it
    facts.write_text(json.dumps(FACTS))
    hparams = {**HPARAMS, "model_name": str(checkpoint)}
    experiment = Experiment(CONSECUTIVE, hparams, Data(str(facts)), retention=(), batch_size=1)
    return CellJob(name, experiment, folder / name, folder / "logs" / f"{name}.log", folder)


def kill_once(job: CellJob) -> None:
    """Run a cell; the process of the cell :data:`KILLED` kills itself after two edits, the first time."""
    record = job.folder.parent / f"{KILLED}-before"
    if job.name == KILLED and not record.exists():
        journal = RunFolder.journal

        def journal_then_die(folder: RunFolder, *entries: Any) -> None:
            journal(folder, *entries)
            if entries[0]["n_edits"] == 2:
                record.touch()
                os.kill(os.getpid(), signal.SIGKILL)

        RunFolder.journal = journal_then_die  # type: ignore[method-assign]  # in this process only
    run_cell(job)


def be_terminated(job: CellJob) -> None:
    """Be asked to end while a file is written."""
    with atomic_file(job.folder / "file"):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(20)


LONG_REASON = "x" * 200_000
"""More than a pipe holds before somebody reads it."""


def fail_at_length(job: CellJob) -> None:
    """Fail with a long message."""
    raise RunError(LONG_REASON)


def sleep(job: CellJob) -> None:
    """Write the process's id into a file, and sleep."""
    (job.folder.parent / f"{job.name}.pid").write_text(str(os.getpid()))
    time.sleep(600)


def failures_of(launcher: Launcher, jobs: list[CellJob]) -> dict[str, str | None]:
    """Run cells, and return the reason why each failed, or None, by the cell's name."""
    ends = [end for end in launcher.launch(jobs) if isinstance(end, CellEnd)]
    assert len(ends) == len(jobs)
    return {end.name: end.failure for end in ends}


def assert_equal_runs(folder: Path, expected: Path) -> None:
    """Check that two runs left the same edits, journal and scores."""
    found, wanted = observed(folder), observed(expected)
    assert {"journal.jsonl", "metrics.jsonl", "summary.json"} <= wanted.keys()
    assert any(name.startswith("state/") for name in wanted)
    assert found == wanted
