"""Execute a run: open its folder, edit and score, and write its summary."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from easyedit_lifelong.evaluation.sampling import sample_of
from easyedit_lifelong.evaluation.scoreboard import Scoreboard
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.evaluation.scorers import scorer_for
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.runs.checks import Material, check_material
from easyedit_lifelong.runs.engine import Run
from easyedit_lifelong.runs.experiment import Experiment, Inputs
from easyedit_lifelong.runs.inputs import read_inputs
from easyedit_lifelong.runs.plan import Plan, make_plan
from easyedit_lifelong.runs.resume import is_finished, resume
from easyedit_lifelong.runs.run_config import run_config, summary_facts, with_data
from easyedit_lifelong.runs.run_folder import RunFolder
from easyedit_lifelong.runs.run_scores import summarize
from easyedit_lifelong.runs.state import Progress, RunResult, RunState


def run_experiment(
    experiment: Experiment,
    model: Any,
    tokenizer: Any,
    out: Path | str | None,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> RunResult:
    """Plan an experiment, read its data and execute it on a loaded model.

    Args:
        experiment: the settings of the run.
        model: the model, unedited; it is edited in place.
        tokenizer: its tokenizer.
        out: folder for the run's files.
        resume: whether to continue the run in ``out``.
        progress: receives how far the run has come.

    Raises:
        LifelongError: a setting, the data or the model cannot be used.
    """
    plan = make_plan(experiment, out, resume)
    return execute(plan, read_inputs(experiment, plan.seed), model, tokenizer, progress)


def execute(plan: Plan, inputs: Inputs, model: Any, tokenizer: Any, progress: Progress | None = None) -> RunResult:
    """Execute a plan.

    Args:
        plan: the plan.
        inputs: the data.
        model: the model, unedited; it is edited in place.
        tokenizer: its tokenizer.
        progress: receives how far the run has come.

    Raises:
        DataError: a request cannot be used.
        ModelError: the method cannot edit this model.
        RunError: the model carries edits; the folder holds another run; the run in it cannot be resumed; or it
            cannot be written.
    """
    scorer = scorer_for(model, tokenizer)
    material = check_material(plan, inputs, model, tokenizer, scorer)
    config = run_config(plan, model, material)
    facts = summary_facts(plan, model, material, config)
    with ExitStack() as stack:
        folder: RunFolder | None = None
        if plan.out is not None:
            folder = (
                RunFolder.reopen(plan.out, config) if plan.resume else RunFolder(plan.out, resumable=plan.resumable)
            )
            stack.callback(folder.close)
        began = time.perf_counter()
        run = Run(plan, tokenizer, RunState(model), _board(plan, model, scorer, material), folder, material.usable)
        run.state.counts["skipped"] = len(material.skipped)
        run.state.seconds["scoring"] += time.perf_counter() - began
        _prepare(run, progress)
        if folder and not plan.resume:  # only now: a failed preparation leaves the folder free for another try
            folder.write_config(with_data(folder.path, config, material))
        for name in plan.experiment.trackers:
            assert folder is not None  # the plan was checked
            run.trackers.append(get_plugins().trackers.get(name).create(folder.path, facts))
            stack.callback(run.trackers[-1].close)
        if plan.resume:
            began -= resume(run)
            if run.done:
                run.notify(progress)
        finished = is_finished(run)
        run.run_remaining(progress)
        total = time.perf_counter() - began
        sample = plan.schedule.sample if plan.consecutive else None  # a single round scores all edits
        more = {"n_batches": len(run.batches), "skipped": material.skipped} if plan.batched else {}
        summary = summarize(run.state, run.board, facts, total, sample=sample, seed=plan.seed, **more)
        if folder and not finished:
            folder.write_summary(summary)
    return RunResult(
        run.state.model,
        summary["metrics"],
        summary["timing"],
        run.state.journal,
        run.state.curve,
        summary,
        folder.path if folder else None,
    )


def _board(plan: Plan, model: Any, scorer: Scorer, material: Material) -> Scoreboard:
    sample, generated = plan.schedule.sample, None
    if sample is not None and plan.consecutive:
        # Some requests of the sample may need no edit; others replace them.
        generated = sample_of(material.usable, 2 * sample if plan.experiment.only_errors else sample, plan.seed)
    return Scoreboard(
        scorer,
        model,
        material.usable,
        material.retention,
        task=material.task,
        generation_requests=generated,
        text=material.inputs.text,
    )


def _prepare(run: Run, progress: Progress | None) -> None:
    """Let the method compute what it needs before its first edit, and note how long that took."""
    prepare = run.plan.method.prepare
    if prepare is not None:
        began = time.perf_counter()
        # A progress display need not have this method.
        prepare(run.state.model, run.tokenizer, run.plan.hparams, getattr(progress, "prepared", None))
        run.state.seconds["preparing"] += time.perf_counter() - began
