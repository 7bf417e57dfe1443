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

_MAX_TIMEOUTS = "max_num_timeout"
"""How often a job that reaches its time limit is submitted again: a parameter of the executor, not of the jobs."""


def slurm_executor(parameters: Mapping[str, Any], folder: Path, source: str) -> submitit.SlurmExecutor:
    """Return an executor that submits jobs to Slurm.

    Args:
        parameters: the parameters of the jobs, as submitit names them, such as ``partition``, ``time`` and ``mem``; and
            ``max_num_timeout``. ``time`` is required, since submitit's default is five minutes.
        folder: the folder for the files of the jobs, which all nodes must see.
        source: where the parameters come from, for messages.

    Raises:
        HyperParameterError: there is no such parameter, or a value can't be used.
        RunError: this machine can't submit jobs.
    """
    of_executor = _checked_limits(parameters, source)
    try:
        executor = submitit.SlurmExecutor(folder=folder, **of_executor)
    except RuntimeError as error:
        raise RunError(
            "--launcher slurm: there is no `srun` here. Call the command on a machine that submits Slurm jobs."
        ) from error
    of_jobs = {_NAMES.get(name, name): value for name, value in parameters.items() if name not in of_executor}
    try:
        executor.update_parameters(**{"job_name": "sweep", **of_jobs})
    except (ValueError, TypeError) as error:
        raise HyperParameterError(f"{source}: {' '.join(str(error).split())} - {_MAX_TIMEOUTS} (default: 3)") from error
    return executor


def _checked_limits(parameters: Mapping[str, Any], source: str) -> dict[str, int]:
    """Check the time limit of jobs and how often it may be reached; return the arguments of the executor.

    Raises:
        HyperParameterError: the time limit is missing, or a value is not a whole number, or too small.
    """
    if "time" not in parameters:
        raise HyperParameterError(
            f"{source}.time: missing. Set the time limit of a job in minutes: long enough for a cell, which is "
            f"submitted again up to {_MAX_TIMEOUTS} times and resumes."
        )
    for name, least in (("time", 1), (_MAX_TIMEOUTS, 0)):
        value = parameters.get(name, least)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise HyperParameterError(f"{source}.{name}: {value!r} is not a whole number of at least {least}")
    return {name: value for name, value in parameters.items() if name == _MAX_TIMEOUTS}


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
