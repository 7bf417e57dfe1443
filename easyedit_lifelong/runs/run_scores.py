"""The scores of a run: compute them, write them to the curve, the folder and the trackers, and summarize them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from easyedit_lifelong.clock import now
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.evaluation.answer_matching import Generation
from easyedit_lifelong.evaluation.averages import RequestScores, Scores, averages_with_intervals
from easyedit_lifelong.evaluation.judged_answers import JudgedAnswers
from easyedit_lifelong.evaluation.metrics import METRICS
from easyedit_lifelong.evaluation.multiple_choice import BY_SUBJECT
from easyedit_lifelong.evaluation.sampling import sample_of
from easyedit_lifelong.evaluation.scoreboard import Scoreboard
from easyedit_lifelong.models.devices import device_of
from easyedit_lifelong.registry import Tracker
from easyedit_lifelong.runs.run_folder import GENERATIONS, SCHEMA_VERSION, RunFolder
from easyedit_lifelong.runs.state import RunState
from easyedit_lifelong.versions import package_versions

LOG = logging.getLogger(__name__)

_TRR = "TRR"


def score_all(
    state: RunState,
    board: Scoreboard,
    folder: RunFolder | None,
    trackers: Sequence[Tracker],
    *,
    thorough: bool,
    generate: bool = True,
    sample: int | None = None,
    seed: int = 0,
    counts: Callable[[Any], Mapping[str, float]] | None = None,
    judged: JudgedAnswers | None = None,
    **position: Any,
) -> None:
    """Score past edits, and record the scores in the curve, the folder and the trackers.

    Args:
        state: the edits so far.
        board: the scoreboard that scores them.
        folder: the run's folder, if it has one.
        trackers: the trackers that receive the scores.
        thorough: whether to compute the expensive scores, too: generated answers, the comparison of new answers
            with true ones, the perplexity of the held-out text and the accuracy on multiple-choice questions.
        generate: whether a thorough scoring generates answers.
        sample: score a random sample of this many past edits if there are more; None for all of them.
        seed: the seed of the sample.
        counts: the method's port that returns numbers about the edited model, by name (``n_keys``).
        judged: scores generated answers with a judge; None for no such scores.
        **position: how far the run is (``n_seen``, ``batch``): further entries of the line of ``metrics.jsonl``.
    """
    began = time.perf_counter()
    scored = sample_of(state.attempted, sample, seed)
    scores = edit_success(state)
    skipped = _skipped_requests(state, board, sample, seed)
    scores |= board.score(state.model, scored, thorough=thorough, skipped=skipped, edited=state.attempted)
    outputs: list[Generation] = []
    if thorough and generate and scored:
        generated, outputs = board.score_generation(state.model, scored)
        scores |= generated
        if judged is not None:
            scores |= judged.scores(outputs)
    scores |= _method_counts(state, counts)
    if len(scored) < state.n_attempted:
        position["sampled"] = len(scored)
    seconds = time.perf_counter() - began
    state.seconds["scoring"] += seconds
    for output in outputs:
        LOG.debug("%s -> %s", output.prompt, output.after)
    if folder and outputs:  # before the scores: a run that is killed here repeats both when it is resumed
        folder.rewrite(GENERATIONS, [output.to_dict() for output in outputs])
    record_scores(state, scores, folder, trackers, **position, seconds_scoring=seconds)


def scores_after_edit(
    board: Scoreboard, model: Any, batch: Sequence[EditRequest], *, final: bool
) -> list[RequestScores]:
    """Return the scores of each request of a batch right after its edit.

    Args:
        board: the scoreboard.
        model: the edited model.
        batch: the requests.
        final: whether the batch is rolled back afterwards (single-round). Then all scores are computed, locality and
            TRR included; a model that keeps its edits is scored again, and only the edit success is computed here.
    """
    if not final:
        return board.success(model, batch)
    forced_scores, trr = board.score_each(model, batch)
    generated_scores, _ = board.generated.score_each(model, batch)
    held_out: RequestScores = {} if trr is None else {_TRR: [trr]}
    return [
        {**forced, **generated, **held_out} for forced, generated in zip(forced_scores, generated_scores, strict=True)
    ]


def record_scores(
    state: RunState, scores: Scores, folder: RunFolder | None, trackers: Sequence[Tracker], **further: Any
) -> None:
    """Add the scores of one scoring, with further entries, to the curve, the run's folder and the trackers."""
    entry = {"n_edits": state.counts["edited"], **further, **scores.entry()}
    state.curve.append(entry)
    if folder:
        folder.metrics(entry)
    log_to_trackers(trackers, entry)


def log_to_trackers(trackers: Sequence[Tracker], entry: Mapping[str, Any]) -> None:
    """Send the entries of one scoring to trackers."""
    for tracker in trackers:
        tracker.log(entry["n_edits"], {name: value for name, value in entry.items() if name != "n_edits"})


def edit_success(state: RunState) -> Scores:
    """Return the ES of all edits so far and, if the task has its own measure, the ES in that measure.

    Every edit counts with its score right after it was made.
    """
    task_measures = ("ES_acc", "ES_ppl")
    return averages_with_intervals([{"ES": [value]} for value in state.success]) | averages_with_intervals(
        [{name: [entry[name]] for name in task_measures if name in entry} for entry in state.journal]
    )


def single_round_scores(state: RunState) -> Scores:
    """Return the scores of a single-round run, from the scores of each request in the journal.

    A batch has one edited model and so one TRR, which the journal repeats in the line of each of its requests. The
    mean of TRR weights a batch by its requests; the confidence interval counts the batch as one observation.
    """
    entries = [entry for entry in state.journal if "scores" in entry]
    scores = averages_with_intervals(
        [{name: values for name, values in entry["scores"].items() if name != _TRR} for entry in entries]
    )
    trr_by_batch: dict[int, list[float]] = {}
    for number, entry in enumerate(entries):
        batch = entry.get("batch", -number)  # a line without a batch number is a batch by itself
        trr_by_batch.setdefault(batch, []).extend(entry["scores"].get(_TRR, ()))
    trr = averages_with_intervals([{_TRR: values} for values in trr_by_batch.values()])
    return edit_success(state) | scores.renamed({"reliability": "ERR"}) | scores | trr


def _skipped_requests(state: RunState, board: Scoreboard, sample: int | None, seed: int) -> list[EditRequest]:
    """Return the skipped requests that the unedited model was scored on, or a sample of them.

    The scoreboard counts those of them that the unedited model answered correctly (ARR).
    """
    skipped = [
        EditRequest(entry["case_id"], entry["prompt"], entry["target_new"])
        for entry in state.journal
        if entry["status"] == "skipped"
    ]
    answered_unedited = [request for request in skipped if (request.prompt, request.target_new) in board.unedited]
    return sample_of(answered_unedited, sample, seed)


def _method_counts(state: RunState, counts: Callable[[Any], Mapping[str, float]] | None) -> Scores:
    """Return the method's numbers about the edited model, and the edits per key if it has keys."""
    numbers = dict(counts(state.model)) if counts is not None else {}
    if numbers.get("n_keys"):
        numbers["edits_per_key"] = state.counts["edited"] / numbers["n_keys"]
    return Scores(numbers)


def summarize(
    state: RunState,
    board: Scoreboard,
    config: Mapping[str, Any],
    total: float,
    *,
    sample: int | None = None,
    seed: int = 0,
    **further: Any,
) -> dict[str, Any]:
    """Return the content of a run's ``summary.json``.

    Args:
        state: the edits and scores of the run.
        board: the scoreboard, which has the unedited model's scores.
        config: the settings that the summary repeats.
        total: wall time of the run, in seconds.
        sample: the sample size of the last scoring, so that "before" scores cover the same edits; None for all.
        seed: the seed of the sample.
        **further: further entries.
    """
    scored = sample_of(state.attempted, sample, seed)
    before = board.before(scored)
    if 0 < (answered := sum(map(board.generated.answered_before, scored))) < len(scored):
        LOG.warning(
            "the scores of the unedited model's generated answers are averages over %d of the %d scored edits: it did "
            "not answer the others",
            answered,
            len(scored),
        )
    metrics = state.final() | before.values
    by_subject = board.capability_by_subject(state.last_scores())
    intervals = {**state.last_scores().get("intervals", {}), **before.entry()["intervals"]}
    timing = {
        "seconds_per_edit": state.seconds["editing"] / max(state.n_attempted, 1),
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
        **further,
        "metrics": metrics,
        "intervals": intervals,
        "metric_kinds": {name: METRICS[name].kind for name in metrics},
        **({BY_SUBJECT: by_subject} if by_subject else {}),
        "timing": timing,
        "versions": package_versions(),
        "machine": _machine(state.model),
        "finished": now(),
    }


def _machine(model: Any) -> dict[str, Any]:
    """Return what times and rounding depend on: the device, and the number of torch's threads."""
    device = device_of(model)
    name = {"name": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return {"device": str(device), **name, "threads": torch.get_num_threads()}
