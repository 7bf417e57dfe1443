"""Execute a run: open its folder, edit and score, and write its summary."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from easyedit_lifelong.data.joiners import joiner_of
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.evaluation.answer_count import counted_by
from easyedit_lifelong.evaluation.carry_over import CarryOver
from easyedit_lifelong.evaluation.sampling import ever_sampled, sample_of
from easyedit_lifelong.evaluation.scoreboard import Scoreboard
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.evaluation.self_consistency import SelfConsistency
from easyedit_lifelong.evaluation.unedited_answers import UneditedAnswers
from easyedit_lifelong.hparams_files import hparams_defaults
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.plurals import counted
from easyedit_lifelong.runs.checks import CheckedData, check_data, scorer_of
from easyedit_lifelong.runs.engine import Run
from easyedit_lifelong.runs.experiment import Experiment, Inputs
from easyedit_lifelong.runs.harness_results import AFTER, BEFORE, HarnessResults
from easyedit_lifelong.runs.inputs import read_inputs
from easyedit_lifelong.runs.judgements import judged_answers
from easyedit_lifelong.runs.memory_use import memory_summary
from easyedit_lifelong.runs.plan import Plan, make_plan
from easyedit_lifelong.runs.resume import is_finished
from easyedit_lifelong.runs.resume import resume as resume_run
from easyedit_lifelong.runs.run_config import run_config, summary_settings, write_data
from easyedit_lifelong.runs.run_folder import RunFolder
from easyedit_lifelong.runs.run_scores import summarize
from easyedit_lifelong.runs.state import Progress, RunResult, RunState, run_result

LOG = logging.getLogger(__name__)


def run_experiment(
    experiment: Experiment,
    model: Any,
    tokenizer: Any,
    out: Path | str | None,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    unedited_answers: UneditedAnswers | None = None,
) -> RunResult:
    """Plan an experiment, read its data and execute it on a loaded model.

    Args:
        experiment: the settings of the run.
        model: the model, unedited; it is edited in place.
        tokenizer: its tokenizer.
        out: folder for the run's files.
        resume: whether to continue the run in ``out``.
        progress: receives what the run reports while it works.
        unedited_answers: the unedited model's answers from other runs, and to which this run adds its own.

    Returns:
        The run's result.

    Raises:
        LifelongError: a setting, the data or the model cannot be used.
    """
    plan = make_plan(experiment, out, resume)
    inputs = read_inputs(experiment, plan.seed)
    return execute(plan, inputs, model, tokenizer, progress, unedited_answers=unedited_answers)


def execute(
    plan: Plan,
    inputs: Inputs,
    model: Any,
    tokenizer: Any,
    progress: Progress | None = None,
    *,
    unedited_answers: UneditedAnswers | None = None,
) -> RunResult:
    """Execute a plan: check the data, open the folder, edit and score, and write the summary.

    Args:
        plan: the plan.
        inputs: the data.
        model: the model, unedited; it is edited in place.
        tokenizer: its tokenizer.
        progress: receives what the run reports while it works.
        unedited_answers: see :func:`run_experiment`.

    Returns:
        The run's result.

    Raises:
        DataError: a request cannot be used.
        ModelError: the method cannot edit this model.
        RunError: the model carries edits; or the folder holds another run, holds a run that cannot be resumed, or
            cannot be written to.
    """
    scorer = scorer_of(plan, model, tokenizer)
    checked = check_data(plan, inputs, model, tokenizer, scorer)
    _warn_of_scorings_beyond(plan, len(checked.usable))
    config = run_config(plan, model, checked)
    _warn_of_other_digests(plan.experiment, config)
    settings = summary_settings(plan, model, checked, config)
    with ExitStack() as stack:
        folder = _open_folder(plan, config)
        if folder is not None:
            stack.callback(folder.close)
        stack.enter_context(counted_by(getattr(progress, "scoring", None)))
        began = time.perf_counter()
        board = make_scoreboard(plan, model, scorer, checked, unedited_answers=unedited_answers)
        harness = HarnessResults(plan.experiment.lm_eval, folder, resume=plan.resume)
        harness.evaluate(BEFORE, model, tokenizer)
        judged = judged_answers(plan.experiment.judge, folder)
        run = Run(plan, tokenizer, RunState(model), board, folder, checked.usable, judged=judged)
        run.state.counts["skipped"] = len(checked.skipped)
        run.state.seconds["scoring"] += time.perf_counter() - began
        _prepare(run, progress)
        for name in plan.experiment.trackers:
            assert folder is not None  # make_plan refuses trackers without a folder
            run.trackers.append(get_plugins().trackers.get(name).create(folder.path, settings))
            stack.callback(run.trackers[-1].close)
        if folder and not plan.resume:
            # After all that can fail before the first edit: without a configuration, the run can be started again.
            folder.write_config(write_data(folder.path, config, checked))
        seconds_before = resume_run(run) if plan.resume else 0.0
        if run.done:
            run.notify(progress)
        was_finished = is_finished(run)
        run.run_remaining(progress)
        began_harness = time.perf_counter()
        harness.evaluate(AFTER, run.state.model, tokenizer)
        run.state.seconds["scoring"] += time.perf_counter() - began_harness
        total = seconds_before + time.perf_counter() - began
        summary = _summary(run, checked, settings, harness, total)
        if folder and not was_finished:
            folder.write_summary(summary)
    return run_result(run.state, summary, folder.path if folder else None)


def _summary(
    run: Run, checked: CheckedData, settings: dict[str, Any], harness: HarnessResults, total: float
) -> dict[str, Any]:
    """Return the content of the ``summary.json`` of a run whose batches are all processed.

    Args:
        run: the run.
        checked: its data.
        settings: the settings that the summary repeats.
        harness: the results of lm-evaluation-harness.
        total: wall time of the run, in seconds.
    """
    plan, path = run.plan, run.folder.path if run.folder else None
    further: dict[str, Any] = {
        "rollback": _rollback_scope(plan.method, run.has_rollback),
        **harness.summary(),
        "memory": memory_summary(run.state.journal, run.memory.process_peak(), path, run.state.counts["edited"]),
    }
    if plan.batched:
        further["n_batches"] = len(run.batches)
    if plan.batched or checked.skipped:
        further["skipped"] = checked.skipped
    if checked.inputs.notes:
        further["data_notes"] = list(checked.inputs.notes)
    sample = plan.schedule.sample if plan.keeps_edits else None  # a single round scores all edits
    return summarize(run.state, run.board, settings, total, sample=sample, seed=plan.seed, **further)


def _warn_of_scorings_beyond(plan: Plan, n_edits: int) -> None:
    """Log a warning if the schedule names numbers of edits that a run of ``n_edits`` edits does not reach."""
    if beyond := plan.schedule.beyond(n_edits):
        source = plan.experiment.source
        LOG.warning(
            "%sthe run has %s, so edits are not scored after %s; they are scored after the last one",
            f"{source}, schedule.at: " if source else "",
            counted(n_edits, "edit"),
            ", ".join(map(str, beyond)),
        )


def _warn_of_other_digests(experiment: Experiment, config: dict[str, Any]) -> None:
    """Log a warning if a run's own config.yaml is executed with other data or weights than the run had."""
    digests = {"requests_sha256": "the data, held-out facts, text or questions", "weights": "the model's weights"}
    for key, content in digests.items():
        recorded = experiment.recorded.get(key)
        if recorded is not None and recorded != config["recorded"][key]:
            LOG.warning(
                "%s, recorded.%s: %s aren't those of the run that wrote this file, so scores differ from its scores",
                experiment.source,
                key,
                content,
            )


def _open_folder(plan: Plan, config: dict[str, Any]) -> RunFolder | None:
    """Open the folder of a new or an interrupted run; return None if the run writes no files."""
    if plan.out is None:
        return None
    if plan.resume:
        return RunFolder.reopen(plan.out, config, hparams_defaults(plan.hparams), plan.advice)
    return RunFolder(plan.out, resumable=plan.resumable, advice=plan.advice)


def make_scoreboard(
    plan: Plan,
    model: Any,
    scorer: Scorer,
    checked: CheckedData,
    *,
    generates: bool = True,
    unedited_answers: UneditedAnswers | None = None,
) -> Scoreboard:
    """Return the scoreboard of a run, which scores the unedited model.

    Args:
        plan: the plan of the run.
        model: the unedited model.
        scorer: the scorer that runs the model.
        checked: the run's data.
        generates: whether answers are generated.
        unedited_answers: see :func:`run_experiment`.
    """
    sample = plan.schedule.sample if plan.keeps_edits else None  # a single round scores all edits
    # With only_errors, the samples are drawn from the requests that are not skipped, which are not known yet.
    scored_requests = None if plan.experiment.only_errors else ever_sampled(checked.usable, sample, plan.seed)
    generation_requests = _generation_requests(plan, model, scorer, checked.usable) if generates else []
    generated_for = checked.usable if generation_requests is None else generation_requests
    carry_over = self_consistency = None
    if plan.experiment.carry_over:
        carry_over = CarryOver(model, scorer.tokenizer, generated_for, plan.experiment.chat, joiner_of(plan.hparams))
    if plan.experiment.self_consistency:
        self_consistency = SelfConsistency(scorer, model, generated_for)
    return Scoreboard(
        scorer,
        model,
        checked.usable,
        checked.retention,
        task=checked.task,
        scored_requests=scored_requests,
        generation_requests=generation_requests,
        text=checked.inputs.text,
        capability=checked.inputs.capability,
        carry_over=carry_over,
        self_consistency=self_consistency,
        unedited_answers=unedited_answers,
        # Single rounds score held-out facts by TRR alone.
        generated_retention=checked.inputs.generated_retention if plan.keeps_edits else 0,
    )


def _generation_requests(
    plan: Plan, model: Any, scorer: Scorer, requests: list[EditRequest]
) -> list[EditRequest] | None:
    """Return the requests that can be in the sample of the last scoring; None for all.

    With ``only_errors``, requests that the unedited model answers are mostly skipped, and others replace them in the
    sample. So twice the sample of the others is added to twice the sample of all.

    Args:
        plan: the plan of the run.
        model: the unedited model.
        scorer: the scorer that runs the model.
        requests: the requests of the run.
    """
    sample = plan.schedule.sample
    if sample is None or not plan.keeps_edits:
        return None
    if not plan.experiment.only_errors:
        return sample_of(requests, sample, plan.seed)
    answers = scorer.forced(model, [(request.prompt, request.target_new) for request in requests])
    wrong = [request for request, answer in zip(requests, answers, strict=True) if not answer.exact]
    drawn = sample_of(requests, 2 * sample, plan.seed) + sample_of(wrong, 2 * sample, plan.seed)
    return list({request.case_id: request for request in drawn}.values())


def _rollback_scope(method: EditMethod, has_rollback: bool) -> str:
    """Return what can be rolled back, as the summary says it: single edits, batches, all edits at once, or nothing.

    Args:
        method: the editing method.
        has_rollback: whether its ``apply`` returns a rollback.
    """
    if method.remove is not None:
        return "edits"
    if method.remove_batches is not None:
        return "batches"
    return "all" if has_rollback else "none"


def _prepare(run: Run, progress: Progress | None) -> None:
    """Call the method's preparation, if it has one, and record its time."""
    prepare = run.plan.method.prepare
    if prepare is not None:
        began = time.perf_counter()
        on_progress = getattr(progress, "prepared", None)  # optional
        prepare(run.state.model, run.tokenizer, run.plan.hparams, on_progress)
        run.state.seconds["preparing"] += time.perf_counter() - began
