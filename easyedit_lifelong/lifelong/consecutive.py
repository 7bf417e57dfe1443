"""The consecutive-batch loop of CoachHook (arXiv 2403.05330): batch upon batch, or each batch alone."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from easyedit_lifelong.data.request import EditRequest, Probe, as_requests
from easyedit_lifelong.data.samples import retention_probes
from easyedit_lifelong.errors import HyperParameterError, ModelError
from easyedit_lifelong.evaluation.scoring import Scorer
from easyedit_lifelong.lifelong.batches import BatchRun, Plan
from easyedit_lifelong.lifelong.common import (
    Progress,
    RunResult,
    RunState,
    check_fit,
    check_method,
    check_run,
    find_method,
    hparams_values,
    now,
    open_trackers,
    prepare_method,
    summarize,
    usable_requests,
)
from easyedit_lifelong.lifelong.folder import SCHEMA_VERSION, RunFolder
from easyedit_lifelong.lifelong.scoreboard import Scoreboard
from easyedit_lifelong.models.fingerprint import model_fingerprint
from easyedit_lifelong.models.load import model_label

EVAL_EVERY = 20
"""Batches between scorings, as in the authors' script."""


class ConsecutiveResult(RunResult):
    """The outcome of :func:`run_consecutive`."""


def run_consecutive(
    model: Any,
    tokenizer: Any,
    requests: Iterable[Any],
    hparams: Any,
    *,
    batch_size: int | None = None,
    consecutive: bool = True,
    eval_every: int | None = None,
    out: Path | str | None = None,
    retention: Sequence[Probe] | None = None,
    trackers: Sequence[str] = (),
    progress: Progress | None = None,
    data_name: str = "",
    resume: bool = False,
    skip_unusable: bool = False,
) -> ConsecutiveResult:
    """Edit a model with batches of requests, and keep score (CoachHook, section 5).

    Two protocols. *Consecutive*: batch upon batch; after every ``eval_every`` batches, and at the end,
    all edits so far are scored. *Single-round*: each batch is edited, scored and rolled back, and the
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
        eval_every: number of *batches* between scorings (default 20).
        out: folder for the run's files.
        retention: held-out facts; the default is the sample data's.
        trackers: names of registered trackers to report to.
        progress: hears how far the run has come.
        data_name: what to call the data in the results.
        resume: go on with the run in ``out`` that was cut short, after the last batch in its journal.
        skip_unusable: leave out requests that can't be used, and list them in the summary.

    Raises:
        DataError: a request can't be used. All are checked before the first edit.
        HyperParameterError: the hyperparameters belong to no method, or a number makes no sense.
        ModelError: the method can't edit this model with them.
        RunError: ``out`` holds another run; the run in it can't be resumed; or trackers are given without it.
    """
    requests, held_out = as_requests(requests), list(retention_probes() if retention is None else retention)
    size = batch_size if batch_size is not None else getattr(hparams, "batch_size", 1)
    plan = Plan(find_method(hparams), tokenizer, hparams, size, eval_every or EVAL_EVERY, consecutive)
    if eval_every is not None and eval_every < 1:
        raise HyperParameterError(f"eval_every: {eval_every} is less than 1")
    plan.check(out, resume)
    if getattr(hparams, "batch_size", size) != size:  # the method cuts batches of its own by it
        hparams = dataclasses.replace(hparams, batch_size=size)
        plan = dataclasses.replace(plan, hparams=hparams)
    check_run(requests, trackers, out)
    scorer = Scorer(tokenizer)
    check_fit([], scorer, model, held_out)
    usable, skipped = usable_requests(plan.method, model, tokenizer, hparams, requests, scorer, skip=skip_unusable)
    check_method(plan.method, model, tokenizer, hparams)
    config = {
        "method": plan.method.name, "model": model_label(model), "data": data_name, "n_requests": len(requests),
        "protocol": "consecutive" if consecutive else "single-round", "batch_size": size,
        "eval_every": plan.eval_every, "weights": _weights(model),
        "requests_sha256": _fingerprint(usable, held_out), "hparams": hparams_values(hparams),
    }  # fmt: skip
    folder, began = _open(out, config, resume), time.perf_counter()
    run = BatchRun(plan, RunState(model), Scoreboard(scorer, model, usable, held_out), folder, usable)
    run.state.counts["skipped"] = len(skipped)
    run.state.seconds["scoring"] += time.perf_counter() - began
    prepare_method(plan.method, run.state, tokenizer, hparams, progress)
    if folder and not resume:  # only now: what can't be prepared leaves the folder free for another try
        folder.write_config({"schema_version": SCHEMA_VERSION, **config, "started": now()})
    with ExitStack() as stack:
        run.trackers = open_trackers(trackers, folder, config, stack)
        if resume:
            run.restore()
            began -= sum(run.restored)
        run.go_on(progress)
    summary = summarize(
        run.state, run.board, config, time.perf_counter() - began,
        n_batches=len(run.batches), skipped=skipped,
    )  # fmt: skip
    if folder and not (resume and run.finished_before):
        folder.write_summary(summary)
    return ConsecutiveResult(
        run.state.model, summary["metrics"], summary["timing"], run.state.journal, run.state.curve, summary,
        folder.path if folder else None,
    )  # fmt: skip


def _open(out: Path | str | None, config: dict[str, Any], resume: bool) -> RunFolder | None:
    if out is None:
        return None
    if resume:
        return RunFolder.reopen(out, {"schema_version": SCHEMA_VERSION, **config})
    return RunFolder(out, resumable=True)


def _weights(model: Any) -> str | None:
    """Return the fingerprint of the model's weights; there is none of weights that aren't in memory."""
    try:
        return model_fingerprint(model)[:16]
    except ModelError:
        return None


def _fingerprint(requests: Sequence[EditRequest], retention: Sequence[Probe]) -> str:
    """Return what tells these requests and held-out facts from any others."""
    told = [
        [
            request.case_id, request.prompt, request.target_new, request.subject, request.rephrase_prompts,
            *(
                [(name, [(probe.prompt, probe.answer) for probe in probes]) for name, probes in sets.items()]
                for sets in (request.locality, request.portability)
            ),
        ]
        for request in requests
    ]  # fmt: skip
    facts = [(probe.prompt, probe.answer) for probe in retention]
    return hashlib.sha256(json.dumps([told, facts], ensure_ascii=False).encode()).hexdigest()[:16]
