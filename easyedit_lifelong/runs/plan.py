"""A plan: an experiment with its method and hyperparameters, checked before its data and model are loaded."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyedit_lifelong.errors import HyperParameterError, RunError
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.runs.experiment import CONSECUTIVE, EVAL_EVERY, PROTOCOLS, Experiment
from easyedit_lifelong.runs.hyperparameter_files import find_method, hyperparameters_of
from easyedit_lifelong.runs.run_folder import check_free, check_resumable
from easyedit_lifelong.runs.schedule import Schedule


@dataclass(frozen=True)
class Plan:
    """A run that was checked as far as this needs neither data nor model; :func:`make_plan` makes it.

    Attributes:
        experiment: the settings of the run.
        method: the editing method.
        hparams: the method's hyperparameters.
        schedule: when past edits are scored.
        batch_size: requests per batch; 1 in the lifelong loop.
        out: folder for the run's files.
        resume: whether to continue the run in ``out``.
    """

    experiment: Experiment
    method: EditMethod
    hparams: Any
    schedule: Schedule
    batch_size: int
    out: Path | str | None
    resume: bool

    @property
    def batched(self) -> bool:
        """Whether this is the consecutive loop, which counts batches; the lifelong loop counts edits."""
        return self.experiment.loop == CONSECUTIVE

    @property
    def consecutive(self) -> bool:
        """Whether an edit stays when the next is made; else each batch is rolled back once it is scored."""
        return self.experiment.protocol == PROTOCOLS[0]

    @property
    def seed(self) -> int:
        """The seed of the sample of past edits."""
        return int(getattr(self.hparams, "seed", 0) or 0)

    @property
    def resumable(self) -> bool:
        """Whether an interrupted run can be resumed: its edits are on disk, or each batch stands alone."""
        return self.method.state is not None or not self.consecutive


def make_plan(experiment: Experiment, out: Path | str | None, resume: bool = False) -> Plan:
    """Return the plan of an experiment.

    Args:
        experiment: the settings of the run.
        out: folder for the run's files.
        resume: whether to continue the run there.

    Raises:
        HyperParameterError: the hyperparameters belong to no registered method, or cannot be used.
        PluginError: there is no such method or tracker, or the tracker cannot be used here.
        RunError: ``out`` holds another run; the run in it cannot be resumed; or it is missing and needed.
    """
    hparams = hyperparameters_of(experiment)
    method = find_method(hparams)
    schedule = experiment.schedule.with_default(EVAL_EVERY[experiment.loop])
    size = 1
    if experiment.loop == CONSECUTIVE:
        size = getattr(hparams, "batch_size", 1) if experiment.batch_size is None else experiment.batch_size
        _check_batch_size(size, method)
        if getattr(hparams, "batch_size", size) != size:  # the method itself divides requests into such batches
            hparams = dataclasses.replace(hparams, batch_size=size)
    plan = Plan(experiment, method, hparams, schedule, size, out, resume)
    _check_folder(plan)
    for tracker in experiment.trackers:
        get_plugins().trackers.get(tracker).check()
    if experiment.trackers and out is None:
        raise RunError(f"trackers ({', '.join(experiment.trackers)}) write into a run's folder; name one with out=")
    return plan


def _check_batch_size(size: Any, method: EditMethod) -> None:
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise HyperParameterError(f"batch_size: {size!r} is not a whole number greater than 0")
    if size > 1 and not method.batchable:
        raise HyperParameterError(f"batch_size: {size}, but {method.name} edits one request at a time. Use 1.")


def _check_folder(plan: Plan) -> None:
    if not plan.resume:
        if plan.out is not None:
            check_free(plan.out, resumable=plan.resumable)
        return
    if plan.out is None:
        raise RunError("resume needs the folder of the run that was cut short; name it with out=")
    if not plan.resumable:
        raise RunError(
            f"{plan.method.name} can't save its edits, so a {plan.experiment.loop} run of it can't be resumed"
        )
    check_resumable(plan.out)
