"""Score the edits of a run again, without editing: with further data or metrics, or after a part of the edits."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from easyedit_lifelong.evaluation.carry_over import CARRY_OVER
from easyedit_lifelong.evaluation.metrics import METRICS
from easyedit_lifelong.folder_lock import locked_folder
from easyedit_lifelong.runs.checks import check_data, scorer_of
from easyedit_lifelong.runs.execute import make_scoreboard
from easyedit_lifelong.runs.harness_results import AFTER, BEFORE, HARNESS_FILE, HarnessResults
from easyedit_lifelong.runs.judgements import JUDGEMENTS, judged_answers
from easyedit_lifelong.runs.rescoring_plan import RESCORED, Rescoring, is_interrupted, plan_rescoring
from easyedit_lifelong.runs.run_config import run_config, summary_settings
from easyedit_lifelong.runs.run_folder import CONFIG, GENERATIONS, JOURNAL, METRICS_FILE, STATE, SUMMARY, RunFolder
from easyedit_lifelong.runs.run_scores import score_all, summarize
from easyedit_lifelong.runs.scoring_errors import named_scoring_errors
from easyedit_lifelong.runs.state import RunResult, RunState, run_result

LOG = logging.getLogger(__name__)

_GENERATED = "generated"
_PARTIAL = (SUMMARY, JOURNAL, METRICS_FILE, GENERATIONS, JUDGEMENTS, HARNESS_FILE)
"""The files that an interrupted rescoring may have written, apart from ``config.yaml``."""


def rescore(rescoring: Rescoring, model: Any, tokenizer: Any) -> RunResult:
    """Load a run's edits onto the unedited model, and score them.

    Args:
        rescoring: what to score.
        model: the run's model, unedited; the edits stay on it.
        tokenizer: its tokenizer.

    Returns:
        The edited model and the scores. The folder has the files of a run, so that ``report`` reads it; ES is
        that of the run, and the seconds include those of its edits.

    Raises:
        DataError: a prompt with its answer is too long for the model.
        ModelError: the model lacks a layer that was edited.
        PluginError: code of a plugin fails while the edits are scored.
        RunError: the saved edits are damaged or belong to another model, or the folder can't be written.
    """
    # The method's checks of requests concern editing. Records with further questions need no subject, for example.
    plan = replace(rescoring.plan, method=replace(rescoring.plan.method, check_requests=None))
    scorer = scorer_of(plan, model, tokenizer)
    checked = check_data(plan, rescoring.inputs, model, tokenizer, scorer)
    config = run_config(plan, model, checked)
    settings = summary_settings(plan, model, checked, config)
    generates = _needs_generated(rescoring.metrics)
    state = RunState(model)
    for entry in rescoring.journal:
        state.record(entry)
    state.seconds["io"] = sum(entry.get("seconds_io", 0.0) for entry in rescoring.journal)
    seconds_of_run = sum(state.seconds.values())
    state.attempted = [request for request in checked.usable if request.case_id not in rescoring.skipped]
    began = time.perf_counter()
    with ExitStack() as stack:
        folder = None if rescoring.out is None else _open_folder(rescoring.out)
        if folder is not None:
            stack.callback(folder.close)
            origin = {"run": str(rescoring.run.resolve()), "edits": state.counts["edited"]}
            folder.write_config({**config, "recorded": {**config["recorded"], RESCORED: origin}})
            folder.journal(*rescoring.journal)
        began_scoring = time.perf_counter()
        harness = HarnessResults(plan.experiment.lm_eval, folder, resume=False)
        harness.evaluate(BEFORE, model, tokenizer)
        board = make_scoreboard(plan, model, scorer, checked, generates=generates)
        began_loading = time.perf_counter()
        _load_edits(rescoring, model, tokenizer)
        state.seconds["scoring"] += began_loading - began_scoring
        state.seconds["preparing"] += time.perf_counter() - began_loading
        with named_scoring_errors(plan.method, scorer, model, state.attempted, folder):
            score_all(
                state,
                board,
                folder,
                [],
                thorough=True,
                generate=generates,
                sample=plan.schedule.sample,
                seed=plan.seed,
                counts=plan.method.counts,
                judged=judged_answers(plan.experiment.judge, folder),
                n_seen=len(rescoring.journal),
            )
        began_harness = time.perf_counter()
        harness.evaluate(AFTER, model, tokenizer)
        state.seconds["scoring"] += time.perf_counter() - began_harness
        state.seconds["io"] += folder.seconds if folder is not None else 0.0
        total = seconds_of_run + time.perf_counter() - began
        summary = summarize(
            state, board, settings, total, sample=plan.schedule.sample, seed=plan.seed, **harness.summary()
        )
        summary = _only_metrics(summary, rescoring.metrics)
        if missing := [name for name in rescoring.metrics if name not in summary["metrics"]]:
            LOG.warning("metrics: %s: the data and the options have nothing to compute this from", ", ".join(missing))
        if folder is not None:
            folder.write_summary(summary)
    return run_result(state, summary, folder.path if folder else None)


def rescore_run(run: Path | str, model: Any, tokenizer: Any, **options: Any) -> RunResult:
    """Score the edits of a run again on its unedited model, without editing.

    Args:
        run: the folder of a run, finished or interrupted.
        model: the run's model, unedited; the edits stay on it.
        tokenizer: its tokenizer.
        **options: the options of :func:`plan_rescoring`.

    Returns:
        The edited model and the scores.

    Raises:
        LifelongError: as :func:`plan_rescoring` and :func:`rescore` do.
    """
    return rescore(plan_rescoring(run, **options), model, tokenizer)


def _open_folder(path: Path) -> RunFolder:
    """Open the folder of the results. Delete those of a rescoring that was interrupted there.

    Raises:
        RunError: the folder holds another run, or another process works in it.
    """
    if is_interrupted(path):
        with locked_folder(path, work="scoring a run there"):
            if is_interrupted(path):  # another process may have finished it before it released the lock
                for name in (*_PARTIAL, CONFIG):  # the file that marks the folder comes last
                    (path / name).unlink(missing_ok=True)
    return RunFolder(path)


def _load_edits(rescoring: Rescoring, model: Any, tokenizer: Any) -> None:
    """Load the edits of a rescoring onto the unedited model."""
    edited = [entry["case_id"] for entry in rescoring.journal if entry["status"] == "edited"]
    keeper = rescoring.plan.method.state
    assert keeper is not None  # plan_rescoring refuses the run otherwise
    keeper.load(model, tokenizer, rescoring.plan.hparams, rescoring.run / STATE, edited)


def _needs_generated(metrics: Sequence[str]) -> bool:
    """Return whether one of the metrics needs generated answers; without names, all metrics are wanted.

    The carry-over is scored together with them.
    """
    return not metrics or any(METRICS[name].kind == _GENERATED or name in CARRY_OVER for name in metrics)


def _only_metrics(summary: dict[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    """Return a summary with these metrics only, each also "before"; without names, the summary itself."""
    if not metrics:
        return summary
    names = {*metrics, *(f"{name}_before" for name in metrics)}
    reduced = {
        key: {name: value for name, value in summary[key].items() if name in names}
        for key in ("metrics", "intervals", "metric_kinds")
    }
    return {**summary, **reduced}
