"""The lifelong loop: edits come one by one, for ever; how many are still kept?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from easyedit_lifelong.data.request import Probe, as_requests
from easyedit_lifelong.evaluation.scorers import scorer_for
from easyedit_lifelong.runs.checks import (
    Progress,
    RunResult,
    check_fit,
    check_method,
    check_requests,
    check_run,
    find_method,
    held_out_facts,
    task_of,
)
from easyedit_lifelong.runs.engine import LIFELONG, Plan
from easyedit_lifelong.runs.execute import execute
from easyedit_lifelong.runs.run_config import Material, Source
from easyedit_lifelong.runs.schedule import Schedule

EVAL_EVERY = 50
"""Edits between scorings, as in GRACE's experiments."""

LifelongResult = RunResult


def run_lifelong(
    model: Any,
    tokenizer: Any,
    requests: Iterable[Any],
    hparams: Any,
    *,
    eval_every: int | None = None,
    eval_at: Sequence[int] = (),
    eval_sample: int | None = None,
    out: Path | str | None = None,
    resume: bool = False,
    only_errors: bool = False,
    retention: Sequence[Probe] | None = None,
    trackers: Sequence[str] = (),
    progress: Progress | None = None,
    data_name: str = "",
    task: str | None = None,
    text: str | None = None,
    source: Source | None = None,
) -> LifelongResult:
    """Edit a model with a stream of requests, one at a time, and keep score.

    Each edit is scored at once (ES). When the schedule says so, and at the end, all edits so far are
    scored again (ERR, generality), with their locality prompts against the unedited model and the
    held-out facts (TRR). "Before" scores are taken before any edit. An edit that fails by itself (its
    loss turns NaN, say) is recorded, counts in the scores as what the model still says, and the run
    goes on.

    A line of the journal is written once its edit is on disk (for a method that can save its edits), so a run
    that was killed at any moment can be resumed, and ends as if it had not been.

    Args:
        model: the model, unedited (also when a run is resumed); it is edited in place.
        tokenizer: its tokenizer.
        requests: in EasyEdit's request fields, or :class:`EditRequest` objects.
        hparams: hyperparameters of a registered method.
        eval_every: number of edits between scorings of all past edits; 1 for after each (default 50, or none if
            ``eval_at`` is given).
        eval_at: numbers of edits after which to score, such as (1, 10, 100, 1000).
        eval_sample: score a random sample of this many past edits where there are more, drawn with the
            hyperparameters' seed.
        out: folder for the run's files.
        resume: go on with the run in ``out`` that was cut short.
        only_errors: leave out requests whose answer the model, as edited so far, already gives.
        retention: held-out facts; the default is the sample data's.
        trackers: names of registered trackers to report to.
        progress: hears how far the run has come.
        data_name: what to call the data in the results.
        task: what the data ask of the model: ``qa`` (the default), ``generation``, or ``classification`` (a
            classifier's).
        text: a held-out text whose perplexity is measured before and after.
        source: where the data came from, for ``config.yaml``; data without one are written into ``out``.

    Raises:
        DataError: a request can't be used. All are checked before the first edit.
        HyperParameterError: the hyperparameters belong to no registered method, or a number makes no sense.
        ModelError: the method can't edit this model with them.
        RunError: ``out`` holds another run, the run in it can't be resumed, or trackers are given without it.
    """
    requests, held_out, task = as_requests(requests), held_out_facts(model, retention), task_of(model, task)
    schedule = Schedule.of(eval_every, eval_at, eval_sample, default=EVAL_EVERY)
    plan = Plan(LIFELONG, find_method(hparams), tokenizer, hparams, schedule, only_errors=only_errors)
    plan.check(out, resume)
    check_run(requests, trackers, out)
    scorer = scorer_for(model, tokenizer)
    check_fit([], scorer, model, held_out)
    check_requests(plan.method, model, tokenizer, hparams, requests, scorer)
    check_method(plan.method, model, tokenizer, hparams)
    material = Material(requests, requests, [], held_out, retention is None, data_name, task, text, source)
    return execute(plan, model, scorer, material, out=out, resume=resume, trackers=trackers, progress=progress)
