"""Carry out a run, in either loop: open its folder, edit and score, and sum up."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.evaluation.sampling import sample_of
from easyedit_lifelong.evaluation.scoreboard import Scoreboard
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.runs.checks import Progress, RunResult, RunState, open_trackers, prepare_method, tell
from easyedit_lifelong.runs.engine import CONSECUTIVE, Plan, Run
from easyedit_lifelong.runs.resume import is_finished, take_up
from easyedit_lifelong.runs.run_config import Material, run_config, summary_facts, with_data
from easyedit_lifelong.runs.run_folder import RunFolder
from easyedit_lifelong.runs.run_scores import summarize


def execute(
    plan: Plan,
    model: Any,
    scorer: Scorer,
    material: Material,
    *,
    out: Path | str | None,
    resume: bool,
    trackers: Sequence[str],
    progress: Progress | None,
) -> RunResult:
    """Carry out a run that has been checked.

    Raises:
        RunError: the model carries edits; ``out`` holds another run; the run in it can't be resumed; or it can't
            be written.
    """
    _check_unedited(plan, model)
    config = run_config(plan, model, material, trackers)
    facts = summary_facts(plan, model, material, config)
    with ExitStack() as stack:
        folder: RunFolder | None = None
        if out is not None:
            folder = RunFolder.reopen(out, config) if resume else RunFolder(out, resumable=plan.resumable)
            stack.callback(folder.close)
        began = time.perf_counter()
        run = Run(plan, RunState(model), _board(plan, model, scorer, material), folder, material.usable)
        run.state.counts["skipped"] = len(material.skipped)
        run.state.seconds["scoring"] += time.perf_counter() - began
        prepare_method(plan.method, run.state, plan.tokenizer, plan.hparams, progress)
        if folder and not resume:  # only now: what can't be prepared leaves the folder free for another try
            folder.write_config(with_data(folder.path, config, material))
        run.trackers = open_trackers(trackers, folder, facts, stack)
        if resume:
            began -= take_up(run)
            if progress and run.done:
                tell(progress, "journaled", run.state.journal)
                tell(progress, "scored", run.state.curve)
                progress.edited(len(run.state.journal), run.latest())
        finished = is_finished(run)
        run.go_on(progress)
        summary = _summary(run, facts, material, time.perf_counter() - began)
        if folder and not finished:
            folder.write_summary(summary)
    return RunResult(
        run.state.model, summary["metrics"], summary["timing"], run.state.journal, run.state.curve, summary,
        folder.path if folder else None,
    )  # fmt: skip


def _check_unedited(plan: Plan, model: Any) -> None:
    carries = getattr(plan.method.state, "carries", None)
    if carries is not None and carries(model):
        raise RunError(
            "the model carries edits already; a run begins on the unedited model. Roll them back or load it anew."
        )


def _board(plan: Plan, model: Any, scorer: Scorer, material: Material) -> Scoreboard:
    sample, heard = plan.schedule.sample, None
    if sample is not None and plan.consecutive:
        # Some of the sample may turn out to need no edit; others take their place.
        heard = sample_of(material.usable, 2 * sample if plan.only_errors else sample, plan.seed)
    return Scoreboard(
        scorer, model, material.usable, material.retention, task=material.task, listen_to=heard, text=material.text
    )


def _summary(run: Run, facts: dict[str, Any], material: Material, total: float) -> dict[str, Any]:
    more: dict[str, Any] = {}
    if run.plan.loop == CONSECUTIVE:
        more = {"n_batches": len(run.batches), "skipped": material.skipped}
    sample = run.plan.schedule.sample if run.plan.consecutive else None  # a single round asks about all
    return summarize(run.state, run.board, facts, total, sample=sample, seed=run.plan.seed, **more)
