"""The scores of a run: compute them, add them to the curve, the folder and the trackers, and summarize them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from easyedit_lifelong.clock import now
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.evaluation.averages import Scores, gather
from easyedit_lifelong.evaluation.generated import Generation
from easyedit_lifelong.evaluation.metrics import METRICS
from easyedit_lifelong.evaluation.sampling import sample_of
from easyedit_lifelong.evaluation.scoreboard import Scoreboard
from easyedit_lifelong.registry import Tracker
from easyedit_lifelong.runs.run_folder import GENERATIONS, SCHEMA_VERSION, RunFolder
from easyedit_lifelong.runs.state import RunState
from easyedit_lifelong.versions import package_versions

LOG = logging.getLogger(__name__)

_HELD_OUT = "TRR"


def score_all(
    state: RunState,
    board: Scoreboard,
    folder: RunFolder | None,
    trackers: Sequence[Tracker],
    *,
    generated: bool,
    sample: int | None = None,
    seed: int = 0,
    counts: Callable[[Any], Mapping[str, float]] | None = None,
    **at: Any,
) -> None:
    """Score past edits and report the scores.

    Args:
        state: the edits so far.
        board: scores them.
        folder: the run's folder, if it has one.
        trackers: receive the scores.
        generated: whether this is a thorough scoring: free answers, the comparison of new answers with
            true ones, and the held-out text cost several times as much as the rest.
        sample: how many past edits to score, where there are more: always the same ones, as far as they
            have been made. None: all of them.
        seed: of the sample.
        counts: returns the method's numbers about the edited model, by name (``n_keys``).
        **at: the position in the run, beside ``n_edits``.
    """
    began = time.perf_counter()
    scored = sample_of(state.attempted, sample, seed)
    scores = edit_success(state)
    scores |= board.score(state.model, scored, thorough=generated, right=_right_before(state, board, sample, seed))
    outputs: list[Generation] = []
    if generated and scored:
        free, outputs = board.score_generation(state.model, scored)
        scores |= free
    scores |= _counted(state, counts)
    if len(scored) < len(state.attempted):
        at["sampled"] = len(scored)
    seconds = time.perf_counter() - began
    state.seconds["scoring"] += seconds
    for output in outputs:
        LOG.debug("%s -> %s", output.prompt, output.after)
    if folder and outputs:  # before the scores: a run that is killed here repeats both when it is resumed
        folder.rewrite(GENERATIONS, [output.to_dict() for output in outputs])
    report(state, scores, folder, trackers, **at, seconds_scoring=seconds)


def report(state: RunState, scores: Scores, folder: RunFolder | None, trackers: Sequence[Tracker], **at: Any) -> None:
    """Add scores to the curve, the run's folder and the trackers."""
    entry = {"n_edits": state.counts["edited"], **at, **scores.entry()}
    state.curve.append(entry)
    if folder:
        folder.metrics(entry)
    log_to_trackers(trackers, entry)


def log_to_trackers(trackers: Sequence[Tracker], entry: Mapping[str, Any]) -> None:
    """Log a point of the curve to trackers."""
    for tracker in trackers:
        tracker.log(entry["n_edits"], {name: value for name, value in entry.items() if name != "n_edits"})


def edit_success(state: RunState) -> Scores:
    """Return ES of all edits so far, and ES in the task's own measure, each as it was right after the edit."""
    measured = ("ES_acc", "ES_ppl")
    return gather([{"ES": [value]} for value in state.success]) | gather(
        [{name: [entry[name]] for name in measured if name in entry} for entry in state.journal]
    )


def single_round_scores(state: RunState) -> Scores:
    """Return the scores of a single-round run: each request's are in the journal, under its own batch's edit.

    A batch has one edited model and so one TRR, which the lines of all its requests repeat. Its weight is the number
    of these lines, but it was measured once: for the interval it is one observation, not several.
    """
    entries = [entry for entry in state.journal if "scores" in entry]
    scores = gather([{name: v for name, v in entry["scores"].items() if name != _HELD_OUT} for entry in entries])
    retained: dict[int, list[float]] = {}
    for number, entry in enumerate(entries):
        retained.setdefault(entry.get("batch", -number), []).extend(entry["scores"].get(_HELD_OUT, ()))
    held_out = gather([{_HELD_OUT: values} for values in retained.values()])
    return edit_success(state) | scores.renamed({"reliability": "ERR"}) | scores | held_out


def _right_before(state: RunState, board: Scoreboard, sample: int | None, seed: int) -> list[EditRequest]:
    """Return the requests that were left out because the unedited model, too, gives their answer."""
    skipped = [
        EditRequest(entry["case_id"], entry["prompt"], entry["target_new"])
        for entry in state.journal
        if entry["status"] == "skipped"
    ]
    known = [request for request in skipped if (request.prompt, request.target_new) in board.unedited]
    return sample_of(known, sample, seed)


def _counted(state: RunState, counts: Callable[[Any], Mapping[str, float]] | None) -> Scores:
    found = dict(counts(state.model)) if counts is not None else {}
    if found.get("n_keys"):
        found["edits_per_key"] = state.counts["edited"] / found["n_keys"]
    return Scores(found)


def summarize(
    state: RunState,
    board: Scoreboard,
    config: Mapping[str, Any],
    total: float,
    *,
    sample: int | None = None,
    seed: int = 0,
    **more: Any,
) -> dict[str, Any]:
    """Return a run's summary.

    Args:
        state: the edits and scores of the run.
        board: has the unedited model's scores.
        config: the settings of the run.
        total: wall time, in seconds.
        sample: how many past edits the last scoring was about at most; the unedited model's scores are about the
            same ones.
        seed: of the sample.
        **more: further entries.
    """
    before = board.before(sample_of(state.attempted, sample, seed))
    metrics = state.final() | before.values
    intervals = {**state.last_scores().get("intervals", {}), **before.entry()["intervals"]}
    timing = {
        "seconds_per_edit": state.seconds["editing"] / max(len(state.attempted), 1),
        "seconds_editing": state.seconds["editing"],
        "seconds_scoring": state.seconds["scoring"],
        "seconds_preparing": state.seconds["preparing"],
        "seconds_io": state.seconds.get("io", 0.0),
        "seconds_total": total,
    }
    return {
        "schema_version": SCHEMA_VERSION,
        **config,
        "n_edits": state.counts["edited"],
        "n_failed": state.counts["failed"],
        "n_skipped": state.counts["skipped"],
        **more,
        "metrics": metrics,
        "intervals": intervals,
        "metric_kinds": {name: METRICS[name].kind for name in metrics},
        "timing": timing,
        "versions": package_versions(),
        "finished": now(),
    }
