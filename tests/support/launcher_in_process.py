"""A launcher of sweeps that starts no processes."""

from __future__ import annotations

from collections.abc import Sequence

from easyedit_lifelong.runs.sweep.launcher import CellEnd, Ends
from easyedit_lifelong.runs.sweep.run_cell import CellJob, outcome_of, run_cell


class LauncherInThisProcess:
    """Runs one cell after another in this process; an interrupt comes after a number of them."""

    def __init__(self, interrupt_after: int | None = None) -> None:
        self.interrupt_after = interrupt_after

    def launch(self, jobs: Sequence[CellJob]) -> Ends:
        for number, job in enumerate(jobs):
            if number == self.interrupt_after:
                raise KeyboardInterrupt
            yield CellEnd(job.name, outcome_of(run_cell, job))
