"""Resume an interrupted run where its journal ends."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.runs.engine import Run
from easyedit_lifelong.runs.run_folder import GENERATIONS, JOURNAL, METRICS_FILE, RunFolder, has_summary
from easyedit_lifelong.runs.run_scores import log_to_trackers

LOG = logging.getLogger(__name__)


def resume(run: Run) -> float:
    """Restore the edits and scores that a run's folder holds, so that the run can process the remaining batches.

    Everything after the journal's last complete batch is dropped: incomplete lines, lines of an incomplete batch, and
    edits that the journal does not list. If a scoring was due and is missing, or its texts are, it is made now.

    Args:
        run: the run, with the unedited model and the reopened folder.

    Returns:
        Seconds that the run took before it was interrupted.

    Raises:
        RunError: the run's files contradict each other or the data.
    """
    assert run.folder is not None
    entries = _drop_incomplete_batch(run, run.folder)
    edited = [entry["case_id"] for entry in entries if entry["status"] == "edited"]
    if run.plan.keeps_edits and edited:
        _load_edits(run, run.folder, edited)
    run.record(entries, run.requests[: len(entries)])
    run.io_before = sum(entry.get("seconds_io", 0.0) for entry in entries)
    run.update_io_seconds()
    curve = _restore_curve(run, run.folder, len(entries))
    seconds_scoring = sum(entry.get("seconds_scoring", 0.0) for entry in curve)
    run.state.seconds["scoring"] += seconds_scoring
    seconds_of_batches = sum(entry.get("seconds", 0.0) + entry.get("seconds_scoring", 0.0) for entry in entries)
    _report_lost_scorings(run, run.folder, entries, curve)
    # The run may have been killed between a batch and the scoring that was due after it.
    is_scored = bool(curve) and curve[-1]["n_seen"] == len(entries)
    if run.done and not is_scored and run.scoring_is_due(_edits_before_last_batch(run, entries)):
        run.score()
    return seconds_of_batches + seconds_scoring + run.io_before


def is_finished(run: Run) -> bool:
    """Return whether all batches are processed and the summary is written."""
    return run.folder is not None and run.done == len(run.batches) and has_summary(run.folder.path)


def _drop_incomplete_batch(run: Run, folder: RunFolder) -> list[dict[str, Any]]:
    """Drop the lines of an incomplete batch from the journal, set ``run.done``, and return the remaining lines.

    Raises:
        RunError: the journal is that of other data.
    """
    entries = folder.read(JOURNAL)
    case_ids = [entry.get("case_id") for entry in entries]
    if case_ids != [request.case_id for request in run.requests[: len(case_ids)]] or len(case_ids) > len(run.requests):
        raise RunError(
            f"{folder.path / JOURNAL}: isn't the journal of these data; this run can't be resumed. "
            f"{folder.advice.unusable}"
        )
    n_complete = 0
    for batch in run.batches:
        if n_complete + len(batch) > len(entries):
            break
        n_complete += len(batch)
        run.done += 1
    folder.rewrite(JOURNAL, entries[:n_complete])
    return entries[:n_complete]


def _restore_curve(run: Run, folder: RunFolder, n_requests: int) -> list[dict[str, Any]]:
    """Drop later scorings from the folder; add the others to the state and the trackers, and return their lines."""
    curve = [entry for entry in folder.read(METRICS_FILE) if entry["n_seen"] <= n_requests]
    has_texts = run.plan.keeps_edits and bool(curve) and "generation_match" in curve[-1]  # single-round runs have none
    if has_texts and not (folder.path / GENERATIONS).exists():
        curve.pop()  # its texts have been deleted, so this scoring is made again
    folder.rewrite(METRICS_FILE, curve)
    run.state.curve += curve
    for entry in curve:
        log_to_trackers(run.trackers, entry)
    return curve


def _report_lost_scorings(
    run: Run, folder: RunFolder, entries: Sequence[dict[str, Any]], curve: Sequence[dict[str, Any]]
) -> None:
    """Warn of scorings that the folder lacks, apart from that after the last batch, which is made now."""
    scored, lost, seen, edits = {line["n_seen"] for line in curve}, [], 0, 0
    for number, batch in enumerate(run.batches[: max(run.done - 1, 0)], 1):
        edits_before, seen = edits, seen + len(batch)
        edits = entries[seen - 1]["n_edits"]
        if run.is_scheduled(number, edits_before, edits) and seen not in scored:
            lost.append(edits)
    if lost:
        message = "%s: lacks the scores after these numbers of edits: %s. They are not computed again."
        LOG.warning(message, folder.path / METRICS_FILE, ", ".join(map(str, lost)))


def _edits_before_last_batch(run: Run, entries: list[dict[str, Any]]) -> int:
    """Return the number of edits before the latest batch, given all lines of the journal."""
    lines_before = len(entries) - len(run.batches[run.done - 1])
    return entries[lines_before - 1]["n_edits"] if lines_before else 0


def _load_edits(run: Run, folder: RunFolder, edited: list[int | str]) -> None:
    """Load the edits of these cases from the state folder onto the model."""
    state_keeper = run.plan.method.state
    assert state_keeper is not None  # make_plan refuses to resume otherwise
    if not folder.state.is_dir():
        raise RunError(
            f"{folder.state}: the edits that the journal lists aren't there; this run can't be resumed. "
            f"{folder.advice.unusable}"
        )
    state_keeper.load(run.state.model, run.tokenizer, run.plan.hparams, folder.state, edited)
