"""The launcher that runs cells as Slurm jobs, through submitit."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.helpers import Checkpointable

from easyedit_lifelong.errors import HyperParameterError, RunError
from easyedit_lifelong.runs.sweep.launcher import POLL_SECONDS, CellEnd, Ends
from easyedit_lifelong.runs.sweep.run_cell import CellJob, RunCell, outcome_of, run_cell

_NAMES = {"cpus": "cpus_per_task", "gpus": "gpus_per_node"}
"""Short names of parameters, and submitit's."""


def slurm_executor(parameters: Mapping[str, Any], folder: Path, source: str) -> submitit.SlurmExecutor:
    """Return an executor that submits jobs to Slurm.

    Args:
        parameters: the parameters of the jobs, as submitit names them, such as ``partition``, ``time`` and ``mem``.
        folder: the folder for the files of the jobs, which all nodes must see.
        source: where the parameters come from, for messages.

    Raises:
        HyperParameterError: there is no such parameter.
        RunError: this machine can't submit jobs.
    """
    try:
        executor = submitit.SlurmExecutor(folder=folder)
    except RuntimeError as error:
        raise RunError(
            "--launcher slurm: there is no `srun` here. Call the command on a machine that submits Slurm jobs."
        ) from error
    try:
        executor.update_parameters(
            **{"job_name": "sweep", **{_NAMES.get(name, name): value for name, value in parameters.items()}}
        )
    except (ValueError, TypeError) as error:
        raise HyperParameterError(f"{source}: {' '.join(str(error).split())}") from error
    return executor


class SlurmLauncher:
    """Submits all cells as one job array; Slurm decides how many of them run at a time.

    All nodes need this package, and the folders of the sweep at the same paths. A job that Slurm preempts, or that
    reaches its time limit, is submitted again by submitit, and the cell resumes from its folder.

    Args:
        executor: submits the jobs.
        run: the function that runs a cell; it must be importable.
    """

    def __init__(self, executor: submitit.core.core.Executor, run: RunCell = run_cell) -> None:
        self.executor, self.run = executor, run

    def launch(self, jobs: Sequence[CellJob]) -> Ends:
        """Start the cells, and yield their ends; see :class:`~easyedit_lifelong.runs.sweep.launcher.Launcher`."""
        try:
            with self.executor.batch():
                submitted = {job.name: self.executor.submit(_ResumableCell(), self.run, job) for job in jobs}
        except submitit.core.utils.FailedJobError as error:
            raise RunError(f"--launcher slurm: sbatch refuses the jobs: {' '.join(str(error).split())}") from error
        try:
            while submitted:
                ended = [name for name, slurm_job in submitted.items() if slurm_job.done()]
                for name in ended:
                    yield CellEnd(name, _failure(submitted.pop(name)))
                if not ended:
                    time.sleep(POLL_SECONDS)
                    yield None
        finally:
            for slurm_job in submitted.values():
                slurm_job.cancel()


class _ResumableCell(Checkpointable):
    """Runs a cell. The base class submits a call again that was preempted or reached its time limit."""

    def __call__(self, run: RunCell, job: CellJob) -> str | None:
        """Run the cell; return None if it is finished, else the reason why it failed."""
        return outcome_of(run, job)


def _failure(slurm_job: submitit.Job[str | None]) -> str | None:
    """Return why the cell of an ended job failed; None if it is finished."""
    try:
        return slurm_job.result()
    except (submitit.core.utils.UncompletedJobError, submitit.core.utils.FailedJobError):
        return f"its job {slurm_job.job_id} ended as {slurm_job.state}; {slurm_job.paths.stderr} has its messages"
