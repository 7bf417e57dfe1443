"""The lifelong loop: edits come one by one, for ever; how many are still kept?"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from easyedit_lifelong.data.request import EditRequest, Probe, as_requests
from easyedit_lifelong.data.samples import retention_probes
from easyedit_lifelong.errors import EditError, HyperParameterError
from easyedit_lifelong.evaluation.scoring import Scorer
from easyedit_lifelong.lifelong.common import (
    Progress,
    RunResult,
    RunState,
    check_fit,
    check_method,
    check_requests,
    check_run,
    find_method,
    hparams_values,
    now,
    open_trackers,
    prepare_method,
    score_all,
    summarize,
)
from easyedit_lifelong.lifelong.folder import SCHEMA_VERSION, RunFolder
from easyedit_lifelong.lifelong.scoreboard import Scoreboard
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.registry import EditMethod

LOG = logging.getLogger(__name__)


class LifelongResult(RunResult):
    """The outcome of :func:`run_lifelong`."""


def run_lifelong(
    model: Any,
    tokenizer: Any,
    requests: Iterable[Any],
    hparams: Any,
    *,
    eval_every: int = 50,
    out: Path | str | None = None,
    only_errors: bool = False,
    retention: Sequence[Probe] | None = None,
    trackers: Sequence[str] = (),
    progress: Progress | None = None,
    data_name: str = "",
) -> LifelongResult:
    """Edit a model with a stream of requests, one at a time, and keep score.

    Each edit is scored at once (ES). Every ``eval_every`` edits, and at the end, all edits so far are
    scored again (ERR, generality), with their locality prompts against the unedited model and the
    held-out facts (TRR). "Before" scores are taken before any edit. An edit that fails by itself (its
    loss turns NaN, say) is recorded, counts in the scores as what the model still says, and the run
    goes on.

    Args:
        model: the model; it is edited in place.
        tokenizer: its tokenizer.
        requests: in EasyEdit's request fields, or :class:`EditRequest` objects.
        hparams: hyperparameters of a registered method.
        eval_every: number of edits between scorings of all past edits.
        out: folder for the run's files.
        only_errors: leave out requests whose answer the model, as edited so far, already gives.
        retention: held-out facts; the default is the sample data's.
        trackers: names of registered trackers to report to.
        progress: hears how far the run has come.
        data_name: what to call the data in the results.

    Raises:
        DataError: a request can't be used. All are checked before the first edit.
        HyperParameterError: the hyperparameters belong to no registered method.
        ModelError: the method can't edit this model with them.
        RunError: ``out`` holds another run, or trackers are given without it.
    """
    requests, held_out = as_requests(requests), retention_probes() if retention is None else retention
    scorer = Scorer(tokenizer)
    method = _checked(model, tokenizer, requests, hparams, held_out, scorer, eval_every, trackers, out)
    folder = RunFolder(out) if out is not None else None
    config = {
        "method": method.name, "model": model_label(model), "data": data_name, "n_requests": len(requests),
        "eval_every": eval_every, "only_errors": only_errors, "hparams": hparams_values(hparams),
    }  # fmt: skip
    started = time.perf_counter()
    board = Scoreboard(scorer, model, requests, held_out)
    state = RunState(model)
    state.seconds["scoring"] += time.perf_counter() - started
    prepare_method(method, state, tokenizer, hparams, progress)
    if folder:  # only now: what can't be prepared leaves the folder free for another try
        folder.write_config({"schema_version": SCHEMA_VERSION, **config, "started": now()})
    with ExitStack() as stack:
        reporting = open_trackers(trackers, folder, config, stack)
        for done, request in enumerate(requests, 1):
            entry = _take(state, request, method, tokenizer, hparams, board, only_errors)
            state.journal.append(entry)
            if folder:
                folder.journal(entry)
            last = done == len(requests)
            if (entry["status"] == "edited" and (state.counts["edited"] % eval_every == 0)) or last:
                score_all(state, board, folder, reporting, generated=last)
            if progress:
                progress.edited(done, state.latest())
    summary = summarize(state, board, config, time.perf_counter() - started)
    if folder:
        folder.write_summary(summary)
    return LifelongResult(
        state.model, summary["metrics"], summary["timing"], state.journal, state.curve, summary,
        folder.path if folder else None,
    )  # fmt: skip


def _checked(
    model: Any, tokenizer: Any, requests: Sequence[EditRequest], hparams: Any, held_out: Sequence[Probe],
    scorer: Scorer, eval_every: int, trackers: Sequence[str], out: Path | str | None,
) -> EditMethod:  # fmt: skip
    """Check everything that can be checked before anything is edited or written; return the method."""
    method = find_method(hparams)
    if eval_every < 1:
        raise HyperParameterError(f"eval_every: {eval_every} is less than 1")
    check_run(requests, trackers, out)
    check_fit([], scorer, model, held_out)
    check_requests(method, model, tokenizer, hparams, requests, scorer)
    check_method(method, model, tokenizer, hparams)
    return method


def _take(
    state: RunState, request: EditRequest, method: EditMethod, tokenizer: Any, hparams: Any,
    board: Scoreboard, only_errors: bool,
) -> dict[str, Any]:  # fmt: skip
    """Deal with one request; return its line of the journal."""
    entry: dict[str, Any] = {"case_id": request.case_id, "prompt": request.prompt, "target_new": request.target_new}
    question = (request.prompt, request.target_new)
    began = time.perf_counter()
    if only_errors and board.scorer.forced(state.model, [question])[0].exact:
        state.seconds["scoring"] += time.perf_counter() - began
        state.counts["skipped"] += 1
        return {"status": "skipped", **entry, "reason": "the model already gives this answer"}
    began = time.perf_counter()
    what: dict[str, Any]
    try:
        state.model, rollback = method.apply(state.model, tokenizer, [request], hparams)
    except EditError as error:
        LOG.warning("%s", error)
        status, what = "failed", {"reason": str(error)}
    else:
        results = getattr(rollback, "results", None)
        status = "edited"
        what = results[0].to_dict() if results else {"seconds": time.perf_counter() - began}
    edited = time.perf_counter()
    score = board.scorer.forced(state.model, [question])[0]
    state.seconds["editing"] += edited - began
    state.seconds["scoring"] += time.perf_counter() - edited
    state.attempted.append(request)
    state.success.append(score.accuracy)
    state.counts[status] += 1
    return {"status": status, "n_edits": state.counts["edited"], **entry, "ES": score.accuracy, **what}
