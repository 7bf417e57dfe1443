"""The consecutive-batch loop of CoachHook (arXiv 2403.05330): batch upon batch, or each batch alone."""

from __future__ import annotations

import dataclasses
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
    check_run,
    find_method,
    held_out_facts,
    task_of,
    usable_requests,
)
from easyedit_lifelong.runs.engine import CONSECUTIVE, Plan
from easyedit_lifelong.runs.execute import execute
from easyedit_lifelong.runs.run_config import Material, Source
from easyedit_lifelong.runs.schedule import Schedule

EVAL_EVERY = 20
"""Batches between scorings, as in the authors' script."""


ConsecutiveResult = RunResult


def run_consecutive(
    model: Any,
    tokenizer: Any,
    requests: Iterable[Any],
    hparams: Any,
    *,
    batch_size: int | None = None,
    consecutive: bool = True,
    eval_every: int | None = None,
    eval_at: Sequence[int] = (),
    eval_sample: int | None = None,
    out: Path | str | None = None,
    retention: Sequence[Probe] | None = None,
    trackers: Sequence[str] = (),
    progress: Progress | None = None,
    data_name: str = "",
    task: str | None = None,
    text: str | None = None,
    resume: bool = False,
    skip_unusable: bool = False,
    source: Source | None = None,
) -> ConsecutiveResult:
    """Edit a model with batches of requests, and keep score (CoachHook, section 5).

    Two protocols. *Consecutive*: batch upon batch; when the schedule says so, and at the end, all edits so
    far are scored. *Single-round*: each batch is edited, scored and rolled back, and the
    scores are averages over all requests, each under its own batch's edit. Either way, "before" scores
    and the answers that locality is measured against are the unedited model's. A batch that fails is
    recorded, counts in every score as what the model then says, and the run goes on.

    A line of the journal is written once its batch is edited and, in a consecutive run of a method that
    can save its edits, once they are on disk; so a run that was killed can be resumed after that batch.

    Args:
        model: the model, unedited (also when a run is resumed); it is edited in place.
        tokenizer: its tokenizer.
        requests: in EasyEdit's request fields, or :class:`EditRequest` objects.
        hparams: hyperparameters of a registered method, or of a method of EasyEdit's own that rewrites weights.
        batch_size: requests per batch; the default is ``hparams.batch_size``.
        consecutive: which protocol.
        eval_every: number of *batches* between scorings (default 20, or none if ``eval_at`` is given).
        eval_at: numbers of *edits*: a batch that brings the run there is followed by a scoring.
        eval_sample: score a random sample of this many past edits where there are more, drawn with the
            hyperparameters' seed.
        out: folder for the run's files.
        retention: held-out facts; the default is the sample data's.
        trackers: names of registered trackers to report to.
        progress: hears how far the run has come.
        data_name: what to call the data in the results.
        task: what the data ask of the model: ``qa`` (the default), ``generation``, or ``classification`` (a
            classifier's).
        text: a held-out text whose perplexity is measured before and after.
        resume: go on with the run in ``out`` that was cut short, after the last batch in its journal.
        skip_unusable: leave out requests that can't be used, and list them in the summary.
        source: where the data came from, for ``config.yaml``; data without one are written into ``out``.

    Raises:
        DataError: a request can't be used. All are checked before the first edit.
        HyperParameterError: the hyperparameters belong to no method, or a number makes no sense.
        ModelError: the method can't edit this model with them.
        RunError: ``out`` holds another run; the run in it can't be resumed; or trackers are given without it.
    """
    requests, held_out, task = as_requests(requests), held_out_facts(model, retention), task_of(model, task)
    size = batch_size if batch_size is not None else getattr(hparams, "batch_size", 1)
    schedule = Schedule.of(eval_every, eval_at, eval_sample, default=EVAL_EVERY)
    plan = Plan(CONSECUTIVE, find_method(hparams), tokenizer, hparams, schedule, size, consecutive)
    plan.check(out, resume)
    if getattr(hparams, "batch_size", size) != size:  # the method cuts batches of its own by it
        hparams = dataclasses.replace(hparams, batch_size=size)
        plan = dataclasses.replace(plan, hparams=hparams)
    check_run(requests, trackers, out)
    scorer = scorer_for(model, tokenizer)
    check_fit([], scorer, model, held_out)
    usable, skipped = usable_requests(plan.method, model, tokenizer, hparams, requests, scorer, skip=skip_unusable)
    check_method(plan.method, model, tokenizer, hparams)
    material = Material(
        requests, usable, skipped, held_out, retention is None, data_name, task, text, source, skip_unusable
    )
    return execute(plan, model, scorer, material, out=out, resume=resume, trackers=trackers, progress=progress)
