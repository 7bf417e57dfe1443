"""Resume an interrupted run where its journal ends."""

from __future__ import annotations

from typing import Any

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.runs.engine import Run
from easyedit_lifelong.runs.run_folder import JOURNAL, SUMMARY, RunFolder
from easyedit_lifelong.runs.run_folder import METRICS as CURVE
from easyedit_lifelong.runs.run_scores import log_to_trackers


def resume(run: Run) -> float:
    """Bring a run to where its folder's journal ends, as if it had never been interrupted.

    Everything after the journal's last whole batch is dropped: torn lines, lines of half a batch, edits that
    the journal does not list. A scoring that was due and is missing is made now.

    Args:
        run: the run, with the unedited model, and its folder.

    Returns:
        Seconds that the run took before.

    Raises:
        RunError: the files contradict each other, or the data.
    """
    assert run.folder is not None
    entries = _journaled(run, run.folder)
    edited = [entry["case_id"] for entry in entries if entry["status"] == "edited"]
    if run.plan.consecutive and edited:
        _load(run, run.folder, edited)
    run.record(entries, run.requests[: len(entries)])
    run.io_before = sum(entry.get("seconds_io", 0.0) for entry in entries)
    run.note_io()
    curve = [entry for entry in run.folder.read(CURVE) if entry.get("n_seen", 0) <= len(entries)]
    run.folder.rewrite(CURVE, curve)
    run.state.curve += curve
    scoring = sum(entry.get("seconds_scoring", 0.0) for entry in curve)
    run.state.seconds["scoring"] += scoring
    for entry in curve:
        log_to_trackers(run.trackers, entry)
    before = sum(entry.get("seconds", 0.0) + entry.get("seconds_scoring", 0.0) for entry in entries)
    # The run may have been killed between a batch and the scoring that was due after it.
    scored = curve and curve[-1]["n_seen"] == len(entries)
    if run.done and not scored and run.scoring_is_due(_edits_before(run, entries)):
        run.score()
    return before + scoring + run.io_before


def is_finished(run: Run) -> bool:
    """Return whether all batches are processed and the summary is written."""
    return run.folder is not None and run.done == len(run.batches) and (run.folder.path / SUMMARY).exists()


def _journaled(run: Run, folder: RunFolder) -> list[dict[str, Any]]:
    """Drop incomplete batches from the journal; return the lines of the others, and count these batches."""
    entries = folder.read(JOURNAL)
    found = [entry.get("case_id") for entry in entries]
    if found != [request.case_id for request in run.requests[: len(found)]] or len(found) > len(run.requests):
        raise RunError(f"{folder.path / JOURNAL}: isn't the journal of these data; this run can't be resumed")
    whole = 0
    for batch in run.batches:
        if whole + len(batch) > len(entries):
            break
        whole += len(batch)
        run.done += 1
    folder.rewrite(JOURNAL, entries[:whole])
    return entries[:whole]


def _edits_before(run: Run, entries: list[dict[str, Any]]) -> int:
    """Return how many edits were made before the latest batch."""
    earlier = len(entries) - len(run.batches[run.done - 1])
    return entries[earlier - 1]["n_edits"] if earlier else 0


def _load(run: Run, folder: RunFolder, edited: list[int | str]) -> None:
    keeper = run.plan.method.state
    assert keeper is not None
    if not folder.state.is_dir():
        raise RunError(
            f"{folder.state}: the edits that the journal lists aren't there; this run can't be resumed. Begin anew, in "
            "another folder, with --out."
        )
    keeper.load(run.state.model, run.tokenizer, run.plan.hparams, folder.state, edited)
