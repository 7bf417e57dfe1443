"""A comparison: runs of several methods on the same records, each on the unedited model, in folders side by side."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import HyperParameterError, LifelongError, RunError
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.folder_lock import lock_folder, locked_folder
from easyedit_lifelong.hparams_files import hparams_defaults
from easyedit_lifelong.runs.checks import check_data, check_method, requests_to_edit, scorer_of, usable_requests
from easyedit_lifelong.runs.compared_methods import COMPARISON_FILE, MethodComparison, experiments_by_label
from easyedit_lifelong.runs.comparison_settings import comparison_config, merge_stored, write_config
from easyedit_lifelong.runs.experiment import Experiment, Inputs
from easyedit_lifelong.runs.folder_advice import ONE_OF_SEVERAL
from easyedit_lifelong.runs.inputs import read_inputs
from easyedit_lifelong.runs.plan import Plan, make_plan
from easyedit_lifelong.runs.run_config import run_config
from easyedit_lifelong.runs.run_folder import CONFIG, SUMMARY, RunFolder, check_free, has_summary

_WORK = "running this comparison"
"""What a process does while it holds the lock of a comparison's folder."""


@dataclass(frozen=True)
class ComparedRun:
    """The run of one method.

    Attributes:
        label: its name in the comparison.
        folder: its folder.
        plan: its plan.
    """

    label: str
    folder: Path
    plan: Plan

    @property
    def begun(self) -> bool:
        """Whether the folder holds a run."""
        return (self.folder / CONFIG).is_file()

    @property
    def finished(self) -> bool:
        """Whether the run is finished."""
        return self.begun and has_summary(self.folder)


@dataclass(frozen=True)
class ComparisonPlan:
    """A comparison whose settings, folders and data were checked. :func:`plan_comparison` makes it.

    Attributes:
        out: the folder of the comparison.
        runs: the runs.
        inputs: the data, the same for all runs.
        config: the content of ``compare.yaml``, without methods that only the folder has.
        skipped: the records that not every method can edit; ``case_id`` and ``reason`` of each.
    """

    out: Path
    runs: list[ComparedRun]
    inputs: Inputs
    config: dict[str, Any]
    skipped: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def defaults(self) -> dict[str, dict[str, Any]]:
        """The default hyperparameters of each method, for those that a file of an older release lacks."""
        return {run.label: hparams_defaults(run.plan.hparams) for run in self.runs}


def plan_comparison(comparison: MethodComparison, out: Path | str, resume: bool = False) -> ComparisonPlan:
    """Return the plan of a comparison: check everything that can be checked without the model.

    Runs in ``out`` that are finished stay as they are; runs that were interrupted are to be resumed.

    Args:
        comparison: the settings.
        out: the folder of the comparison.
        resume: whether ``out`` must hold a comparison.

    Raises:
        DataError: the data can't be used.
        HyperParameterError: a method's hyperparameters can't be used, or the methods have different seeds.
        PluginError: there is no such method.
        RunError: ``out`` holds other files, or a comparison with other settings, or one that another process is
            running; or a run can't be resumed.
    """
    experiments = experiments_by_label(comparison)
    out = check_free(out, what="run, not a comparison", files=(CONFIG, SUMMARY))
    if resume and not (out / COMPARISON_FILE).is_file():
        raise RunError(f"{out}: holds no comparison to resume. To begin one there, leave out --resume.")
    if (out / COMPARISON_FILE).is_file() and (lock := lock_folder(out, work=_WORK)) is not None:
        lock.release()
    runs = [plan_run(label, experiment, out / label) for label, experiment in experiments.items()]
    _check_same_seed(runs)
    inputs = read_inputs(runs[0].plan.experiment, runs[0].plan.seed)
    plan = ComparisonPlan(out, runs, inputs, comparison_config(comparison.experiment, experiments, inputs))
    merge_stored(out, plan.config, plan.defaults)  # checks the settings in the folder
    return plan


def check_on_model(plan: ComparisonPlan, model: Any, tokenizer: Any) -> ComparisonPlan:
    """Check all runs of a comparison against the unedited model, before the first edit.

    Returns:
        The plan; if records that can't be used are to be skipped, with those that every method can edit.

    Raises:
        LifelongError: a method can't edit this model or one of the records, or a folder holds a run with other
            settings, data or weights. The message begins with the method's label.
    """
    scorers: dict[str, Scorer] = {}
    for run in plan.runs:
        try:
            scorers[run.label] = scorer_of(run.plan, model, tokenizer)
        except LifelongError as error:
            raise RunError(f"{run.label}: {error}") from error
    if plan.runs[0].plan.experiment.skip_unusable:
        plan = _without_unusable(plan, model, tokenizer, scorers)
    for run in plan.runs:
        try:
            checked = check_data(run.plan, plan.inputs, model, tokenizer, scorers[run.label])
            if run.begun:  # reopening compares the settings
                config = run_config(run.plan, model, checked)
                RunFolder.reopen(run.folder, config, hparams_defaults(run.plan.hparams), ONE_OF_SEVERAL).close()
        except LifelongError as error:
            raise RunError(f"{run.label}: {error}") from error
    return plan


@contextlib.contextmanager
def comparison_folder(plan: ComparisonPlan) -> Iterator[None]:
    """Hold the lock of a comparison's folder inside the context, with the settings in it; make the folder if necessary.

    Raises:
        RunError: another process is running this comparison, or has begun one of its runs since the plan was made; or
            the folder can't be written to.
    """
    with locked_folder(plan.out, work=_WORK):
        if any(run.begun and run.plan.out is not None and not run.plan.resume for run in plan.runs):
            raise RunError(
                f"{plan.out}: another process has begun this comparison meanwhile. The same command continues it."
            )
        write_config(plan.out, plan.config, plan.defaults)
        yield


def plan_run(label: str, experiment: Experiment, folder: Path) -> ComparedRun:
    """Return a run in a folder: a new one, one to resume, or a finished one.

    Args:
        label: its name, for messages.
        experiment: its settings.
        folder: its folder; it need not exist.

    Raises:
        LifelongError: a setting can't be used, or the folder holds a run that can't be resumed.
    """
    plan = make_plan(experiment, None)
    run = ComparedRun(label, folder, plan)
    if run.finished:
        return run
    if run.begun and not plan.resumable:
        raise RunError(
            f"{folder}: this run was interrupted, and {plan.method.name} can't save its edits, so it can't be "
            "continued. Delete the folder to start the run again."
        )
    return dataclasses.replace(run, plan=make_plan(experiment, folder, run.begun, ONE_OF_SEVERAL))


def _check_same_seed(runs: list[ComparedRun]) -> None:
    """Raise a HyperParameterError if methods have different seeds: they would be scored on different samples."""
    seeds = {run.label: run.plan.seed for run in runs}
    if len(set(seeds.values())) > 1:
        listed = ", ".join(f"{label} {seed}" for label, seed in seeds.items())
        raise HyperParameterError(
            f"the methods have different seeds ({listed}), so that samples would differ. Set one with --seed; a method "
            "without a seed counts as 0."
        )


def _without_unusable(
    plan: ComparisonPlan, model: Any, tokenizer: Any, scorers: Mapping[str, Scorer]
) -> ComparisonPlan:
    """Return the plan with the records that every method can edit, so that all methods edit the same ones.

    Args:
        plan: the plan.
        model: the unedited model.
        tokenizer: its tokenizer.
        scorers: the scorer of each run, by its label.

    Raises:
        RunError: a method cannot edit the model, or none of the records; the message begins with the method's label.
    """
    usable: list[EditRequest] = plan.inputs.requests
    skipped: list[dict[str, Any]] = []
    for run in plan.runs:
        method, hparams = run.plan.method, run.plan.hparams
        scorer = scorers[run.label]
        try:
            check_method(method, model, tokenizer, hparams)
            edited = requests_to_edit(run.plan, usable, scorer)
            of_run, of_method = usable_requests(method, model, tokenizer, hparams, edited, scorer, skip=True)
        except LifelongError as error:
            raise RunError(f"{run.label}: {error}") from error
        case_ids = {request.case_id for request in of_run}
        usable = [request for request in usable if request.case_id in case_ids]
        skipped += [{**record, "reason": f"{run.label}: {record['reason']}"} for record in of_method]
    return dataclasses.replace(plan, inputs=dataclasses.replace(plan.inputs, requests=usable), skipped=skipped)
