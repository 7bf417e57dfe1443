"""The lifelong loop: edits come one by one, for ever; how many are still kept?"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from easyedit_lifelong.data.request import EditRequest, Probe, as_requests, check_unique
from easyedit_lifelong.data.samples import retention_probes
from easyedit_lifelong.errors import DataError, EditError, HyperParameterError, RunError
from easyedit_lifelong.evaluation.metrics import METRICS, mean
from easyedit_lifelong.evaluation.scoring import Scorer
from easyedit_lifelong.lifelong.folder import SCHEMA_VERSION, RunFolder
from easyedit_lifelong.lifelong.scoreboard import Scoreboard
from easyedit_lifelong.models.load import context_length, model_label
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.registry import EditMethod, Tracker
from easyedit_lifelong.versions import package_versions

LOG = logging.getLogger(__name__)


class Progress(Protocol):
    """Hears of every request as it is dealt with, and of every scoring."""

    def edited(self, done: int, scores: Mapping[str, float]) -> None:
        """``done`` requests have been dealt with; ``scores`` are the latest."""


@dataclass
class LifelongResult:
    """A run's outcome; with ``out`` given, the same lies in its ``summary.json``.

    Attributes:
        edited_model: the model after the last edit.
        metrics: final scores by name; :data:`~easyedit_lifelong.evaluation.metrics.METRICS` says
            what each means.
        timing: seconds, by name.
        journal: what became of each request, in order.
        curve: the scores at every point of evaluation.
        summary: what ``summary.json`` holds.
        folder: the run's folder, if there is one.
    """

    edited_model: Any
    metrics: dict[str, float]
    timing: dict[str, float]
    journal: list[dict[str, Any]]
    curve: list[dict[str, Any]]
    summary: dict[str, Any]
    folder: Path | None


@dataclass
class _State:
    """What a run has come to.

    An edit that failed counts in every score, with the model as it stayed: a method that fails on
    what is hard must not look better for it.
    """

    model: Any
    attempted: list[EditRequest] = field(default_factory=list)
    journal: list[dict[str, Any]] = field(default_factory=list)
    curve: list[dict[str, Any]] = field(default_factory=list)
    success: list[float] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: {"edited": 0, "failed": 0, "skipped": 0})
    seconds: dict[str, float] = field(default_factory=lambda: {"editing": 0.0, "scoring": 0.0})


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
        "eval_every": eval_every, "only_errors": only_errors, "hparams": _plain(hparams.to_dict()),
    }  # fmt: skip
    started = time.perf_counter()
    if folder:
        folder.write_config({"schema_version": SCHEMA_VERSION, **config, "started": _now()})
    board = Scoreboard(scorer, model, requests, held_out)
    state = _State(model)
    state.seconds["scoring"] += time.perf_counter() - started
    with ExitStack() as stack:
        reporting = _open_trackers(trackers, folder, config, stack)
        for done, request in enumerate(requests, 1):
            entry = _take(state, request, method, tokenizer, hparams, board, only_errors)
            state.journal.append(entry)
            if folder:
                folder.journal(entry)
            last = done == len(requests)
            if (entry["status"] == "edited" and (state.counts["edited"] % eval_every == 0)) or last:
                _score_all(state, board, folder, reporting, generated=last)
            if progress:
                progress.edited(done, _latest(state))
    return _finish(state, board, config, folder, time.perf_counter() - started)


def _checked(
    model: Any, tokenizer: Any, requests: Sequence[EditRequest], hparams: Any, held_out: Sequence[Probe],
    scorer: Scorer, eval_every: int, trackers: Sequence[str], out: Path | str | None,
) -> EditMethod:  # fmt: skip
    """Check everything that can be checked before anything is edited or written; return the method."""
    method = get_plugins().method_for(hparams)
    if method is None:
        raise HyperParameterError(f"{type(hparams).__name__} belongs to no registered editing method")
    if eval_every < 1:
        raise HyperParameterError(f"eval_every: {eval_every} is less than 1")
    if not requests:
        raise DataError("there are no requests to edit")
    check_unique(requests)
    for tracker in trackers:
        get_plugins().trackers.get(tracker)
    if trackers and out is None:
        raise RunError(f"trackers ({', '.join(trackers)}) write into a run's folder; name one with out=")
    check_fit(requests, scorer, model, held_out)
    if method.check is not None:
        method.check(model, tokenizer, hparams)
    return method


def check_fit(requests: Sequence[EditRequest], scorer: Scorer, model: Any, retention: Sequence[Probe] = ()) -> None:
    """Check, before anything is edited, that every prompt and answer fits into the model's context.

    Raises:
        DataError: one doesn't; the message says which.
    """
    limit = context_length(model)
    asked = [(f"retention fact {n}", [("prompt", probe.prompt, probe.answer)]) for n, probe in enumerate(retention)]
    for request in requests:
        fields = [("prompt", request.prompt, request.target_new)]
        fields += [("rephrase_prompt", prompt, request.target_new) for prompt in request.rephrase_prompts]
        for kind in ("locality", "portability"):
            for probes in getattr(request, kind).values():
                fields += [(f"{kind}_prompt", probe.prompt, probe.answer) for probe in probes]
        asked.append((request.where, fields))
    for where, fields in asked:
        for name, prompt, answer in fields:
            try:
                length = len(scorer.encode(prompt, answer).tokens)
            except DataError as error:
                raise DataError(f"{where}, field {name!r}: {error}") from error
            if limit is not None and length > limit:
                raise DataError(
                    f"{where}, field {name!r}: with its answer it has {length} tokens, the model's "
                    f"context is {limit}. Shorten it or leave the record out."
                )


def _take(
    state: _State, request: EditRequest, method: EditMethod, tokenizer: Any, hparams: Any,
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


def _score_all(
    state: _State, board: Scoreboard, folder: RunFolder | None, trackers: Sequence[Tracker], *, generated: bool
) -> None:
    began = time.perf_counter()
    scores = {**_success(state), **board.score(state.model, state.attempted)}
    if generated and state.attempted:
        freely, texts = board.score_generation(state.model, state.attempted)
        scores |= freely
        for request, text in zip(state.attempted, texts, strict=True):
            LOG.debug("%s -> %s", request.prompt, text)
    state.seconds["scoring"] += time.perf_counter() - began
    entry = {"n_edits": state.counts["edited"], **scores}
    state.curve.append(entry)
    if folder:
        folder.metrics(entry)
    for tracker in trackers:
        tracker.log(state.counts["edited"], scores)


def _latest(state: _State) -> dict[str, float]:
    scores = {k: v for k, v in (state.curve[-1] if state.curve else {}).items() if k in ("ERR", "TRR", "locality")}
    return {**_success(state), **scores}


def _success(state: _State) -> dict[str, float]:
    success = mean(state.success)
    return {} if success is None else {"ES": success}


def _finish(
    state: _State, board: Scoreboard, config: Mapping[str, Any], folder: RunFolder | None, total: float
) -> LifelongResult:
    metrics = {name: score for name, score in (state.curve[-1] if state.curve else {}).items() if name != "n_edits"}
    metrics |= board.before(state.attempted)
    timing = {
        "seconds_per_edit": state.seconds["editing"] / max(len(state.attempted), 1),
        "seconds_editing": state.seconds["editing"], "seconds_scoring": state.seconds["scoring"],
        "seconds_total": total,
    }  # fmt: skip
    summary = {
        "schema_version": SCHEMA_VERSION,
        **config,
        "n_edits": state.counts["edited"], "n_failed": state.counts["failed"], "n_skipped": state.counts["skipped"],
        "metrics": metrics,
        "metric_kinds": {name: METRICS[name].kind for name in metrics},
        "timing": timing,
        "versions": package_versions(),
        "finished": _now(),
    }  # fmt: skip
    if folder:
        folder.write_summary(summary)
    return LifelongResult(
        state.model, metrics, timing, state.journal, state.curve, summary, folder.path if folder else None
    )  # fmt: skip


def _open_trackers(
    names: Sequence[str], folder: RunFolder | None, config: Mapping[str, Any], stack: ExitStack
) -> list[Tracker]:
    trackers = []
    for name in names:
        assert folder is not None  # checked with everything else
        tracker = get_plugins().trackers.get(name).create(folder.path, config)
        stack.callback(tracker.close)
        trackers.append(tracker)
    return trackers


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what YAML can hold; a loaded (model, tokenizer) pair becomes its name."""
    simple = (str, int, float, bool, type(None), list)
    return {name: value if isinstance(value, simple) else f"<{type(value).__name__}>" for name, value in values.items()}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
