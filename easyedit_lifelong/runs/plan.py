"""A plan: an experiment with its method and hyperparameters, checked before data and model are loaded."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyedit_lifelong.errors import HyperParameterError, RunError
from easyedit_lifelong.evaluation.harness import check_tasks
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.paths import expanded_path
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.runs.experiment import CONSECUTIVE, EVAL_EVERY, KEEP_EDITS, Experiment
from easyedit_lifelong.runs.folder_advice import OWN_COMMAND, FolderAdvice
from easyedit_lifelong.runs.hyperparameter_files import find_method, hyperparameters_of
from easyedit_lifelong.runs.judgements import judge_type
from easyedit_lifelong.runs.run_folder import CONFIG, check_free, check_resumable, has_summary
from easyedit_lifelong.runs.schedule import Schedule


@dataclass(frozen=True)
class Plan:
    """A run whose settings, method, folder and trackers were checked. :func:`make_plan` makes it.

    Attributes:
        experiment: the settings of the run.
        method: the editing method.
        hparams: the method's hyperparameters.
        schedule: when past edits are scored.
        batch_size: requests per batch; 1 in the lifelong loop.
        out: folder for the run's files.
        resume: whether to continue the run in ``out``.
        advice: what messages about ``out`` advise.
    """

    experiment: Experiment
    method: EditMethod
    hparams: Any
    schedule: Schedule
    batch_size: int
    out: Path | str | None
    resume: bool
    advice: FolderAdvice = OWN_COMMAND

    @property
    def batched(self) -> bool:
        """Whether this is the consecutive loop, whose schedule counts batches. The lifelong loop counts edits."""
        return self.experiment.loop == CONSECUTIVE

    @property
    def keeps_edits(self) -> bool:
        """Whether the model keeps its edits. If not (single-round), each batch is rolled back after its scoring."""
        return self.experiment.protocol == KEEP_EDITS

    @property
    def seed(self) -> int:
        """The hyperparameters' seed, for the sample of past edits and the choice of rephrasings; 0 if there is none."""
        return int(getattr(self.hparams, "seed", 0) or 0)

    @property
    def resumable(self) -> bool:
        """Whether an interrupted run can be resumed: its edits are saved, or it is rolled back after each batch."""
        return self.method.state is not None or not self.keeps_edits

    @property
    def is_lost(self) -> bool:
        """Whether the folder holds this run without its end, and the run can't be resumed."""
        if self.out is None or self.resumable:
            return False
        folder = expanded_path(self.out, RunError)
        return (folder / CONFIG).is_file() and not has_summary(folder)


def make_plan(
    experiment: Experiment, out: Path | str | None, resume: bool = False, advice: FolderAdvice = OWN_COMMAND
) -> Plan:
    """Return the plan of an experiment.

    Args:
        experiment: the settings of the run.
        out: folder for the run's files.
        resume: whether to continue the run there.
        advice: what messages about ``out`` advise.

    Raises:
        DataError: the folder of further tasks of lm-evaluation-harness does not exist.
        HyperParameterError: the hyperparameters belong to no registered method, or cannot be used; or
            lm-evaluation-harness has no such task; or a single-round run is to measure something after its last edit.
        PluginError: a method or tracker is not registered, or a tracker cannot be used on this machine.
        RunError: ``out`` holds another run, or a run that cannot be resumed; or it is None, and resuming or a tracker
            needs a folder; or lm-evaluation-harness is needed and not installed.
    """
    hparams = hyperparameters_of(experiment)
    method = find_method(hparams)
    schedule = experiment.schedule.with_default(EVAL_EVERY[experiment.loop])
    size = 1
    if experiment.loop == CONSECUTIVE:
        size = getattr(hparams, "batch_size", 1) if experiment.batch_size is None else experiment.batch_size
        _check_batch_size(size, method)
        # The method divides the requests that it gets into batches of its hyperparameter: keep the two sizes equal.
        if getattr(hparams, "batch_size", size) != size:
            hparams = dataclasses.replace(hparams, batch_size=size)
    plan = Plan(experiment, method, hparams, schedule, size, out, resume, advice)
    _check_folder(plan)
    if not plan.keeps_edits:
        _check_single_round(experiment)
    if experiment.lm_eval is not None:
        check_tasks(experiment.lm_eval)
    if experiment.judge is not None:
        judge, argument = judge_type(experiment.judge)
        judge.check(argument)
    for tracker in experiment.trackers:
        get_plugins().trackers.get(tracker).check()
    if experiment.trackers and out is None:
        raise RunError(f"trackers ({', '.join(experiment.trackers)}) write into a run's folder; name one with out=")
    return plan


def _check_batch_size(size: Any, method: EditMethod) -> None:
    """Raise a HyperParameterError if a batch size is no positive whole number, or too large for the method."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise HyperParameterError(f"batch_size: {size!r} is not a whole number greater than 0")
    if size > 1 and not method.batchable:
        raise HyperParameterError(f"batch_size: {size}, but {method.name} edits one request at a time. Use 1.")


def _check_single_round(experiment: Experiment) -> None:
    """Raise a HyperParameterError if a single-round run is to measure something after its last edit."""
    for key in ("lm_eval", "carry_over", "self_consistency", "judge"):
        if getattr(experiment, key):
            setting = experiment.setting(key, f"--{key.replace('_', '-')}")
            raise HyperParameterError(
                f"{setting}: a single-round run has no last scoring, in which this is measured. Use the consecutive "
                "protocol."
            )


def _check_folder(plan: Plan) -> None:
    """Raise a RunError if the folder cannot be used for a new run or, with ``resume``, holds no run to resume."""
    if not plan.resume:
        if plan.out is not None:
            check_free(plan.out, resumable=plan.resumable, advice=plan.advice)
        return
    if plan.out is None:
        raise RunError("resume needs the folder of the run that was cut short; name it with out=")
    if not plan.resumable:
        raise RunError(
            f"{plan.method.name} can't save its edits, so a {plan.experiment.loop} run of it can't be resumed"
        )
    check_resumable(plan.out)
