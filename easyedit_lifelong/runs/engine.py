"""The loop of a run over its batches; in the lifelong loop, each batch is one request."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import EditError, RunError
from easyedit_lifelong.evaluation.averages import RequestScores, averages
from easyedit_lifelong.evaluation.scoreboard import Scoreboard, edit_success_of
from easyedit_lifelong.registry import Tracker
from easyedit_lifelong.runs.plan import Plan
from easyedit_lifelong.runs.run_folder import RunFolder
from easyedit_lifelong.runs.run_scores import report, score_all, single_round_scores
from easyedit_lifelong.runs.state import Progress, RunState

LOG = logging.getLogger(__name__)


@dataclass
class Run:
    """A run in progress.

    Attributes:
        plan: the plan of the run.
        tokenizer: the model's tokenizer.
        state: the edits and scores so far.
        board: scores the edits.
        folder: the run's folder, if it has one.
        requests: all requests of the run.
        trackers: receive every scoring.
        edited: the case_ids of the edits that the model carries.
        done: how many batches were processed.
        io_before: seconds that writing took before the run was interrupted.
    """

    plan: Plan
    tokenizer: Any
    state: RunState
    board: Scoreboard
    folder: RunFolder | None
    requests: list[EditRequest]
    trackers: list[Tracker] = field(default_factory=list)
    edited: list[int | str] = field(default_factory=list)
    done: int = 0
    io_before: float = 0.0

    def __post_init__(self) -> None:
        size = self.plan.batch_size
        self.batches = [self.requests[start : start + size] for start in range(0, len(self.requests), size)]
        self._io_noted = 0.0
        """How many of the folder's seconds of writing are in the journal."""

    def run_remaining(self, progress: Progress | None) -> None:
        """Process the remaining batches."""
        for batch in self.batches[self.done :]:
            state = self.state
            edits_before, lines, scorings = state.counts["edited"], len(state.journal), len(state.curve)
            self.process_batch(self.done + 1, batch)
            self.done += 1
            if self.scoring_is_due(edits_before):
                self.score()
            self.note_io()
            self.notify(progress, lines, scorings)

    def notify(self, progress: Progress | None, lines: int = 0, scorings: int = 0) -> None:
        """Report the lines of the journal and of the scores from these numbers on, and the latest scores."""
        if progress is None:
            return
        journal, curve = self.state.journal, self.state.curve
        for name, entries in (("journaled", journal[lines:]), ("scored", curve[scorings:])):
            listener = getattr(progress, name, None)  # optional
            if listener is not None:
                for entry in entries:
                    listener(entry)
        progress.edited(len(journal), self.latest())

    def scoring_is_due(self, edits_before: int) -> bool:
        """Return whether to score now, given how many edits were made before the latest batch."""
        edits = self.state.counts["edited"]
        if self.done == len(self.batches):
            return True
        if self.plan.batched:
            return self.plan.schedule.due(self.done, edits_before, edits)
        return edits > edits_before and self.plan.schedule.due(edits, edits_before, edits)

    def note_io(self) -> None:
        """Update how long writing has taken so far."""
        self.state.seconds["io"] = self.io_before + (self.folder.seconds if self.folder else 0.0)

    def score(self) -> None:
        """Score all edits so far."""
        plan, state = self.plan, self.state
        at: dict[str, Any] = {"batch": self.done} if plan.batched else {}
        at["n_seen"] = len(state.journal)
        if not plan.consecutive:
            began = time.perf_counter()
            scores = single_round_scores(state)
            seconds = time.perf_counter() - began
            state.seconds["scoring"] += seconds
            report(state, scores, self.folder, self.trackers, **at, seconds_scoring=seconds)
            return
        score_all(
            state,
            self.board,
            self.folder,
            self.trackers,
            generated=self.done == len(self.batches),
            sample=plan.schedule.sample,
            seed=plan.seed,
            counts=plan.method.counts,
            **at,
        )

    def latest(self) -> dict[str, float]:
        """Return the scores that a progress display shows."""
        if self.plan.consecutive:
            return self.state.latest()
        scores = [entry["scores"] for entry in self.state.journal]
        rest = averages([{name: one.get(name, []) for name in ("generality", "locality")} for one in scores])
        return {**self.state.edit_success(), **rest}

    def record(self, entries: Sequence[dict[str, Any]], batch: Sequence[EditRequest]) -> None:
        """Add the journal's lines of requests to the state."""
        state = self.state
        for entry, request in zip(entries, batch, strict=True):
            state.journal.append(entry)
            state.counts[entry["status"]] += 1
            if entry["status"] == "edited":
                self.edited.append(request.case_id)
            if entry["status"] != "skipped":
                state.attempted.append(request)
                state.success.append(entry["ES"])
            for kind, name in (("editing", "seconds"), ("scoring", "seconds_scoring")):
                state.seconds[kind] += entry.get(name, 0.0)

    # ------------------------------------------------------------------ one batch

    def process_batch(self, number: int, batch: list[EditRequest]) -> None:
        """Edit a batch, and write the outcome."""
        plan = self.plan
        began = time.perf_counter()
        if plan.experiment.only_errors and self.already_correct(batch[0]):
            seconds = time.perf_counter() - began
            outcome = {"reason": "the model already gives this answer", "seconds_scoring": seconds}
            entries = [self._entry("skipped", number, 0, request, outcome) for request in batch]
        else:
            entries = self._edit(number, batch, time.perf_counter() - began)
        if self.folder:
            keeper = plan.method.state if plan.consecutive else None
            if keeper is not None and entries[0]["status"] == "edited":
                model = self.state.model
                edited = [*self.edited, *(entry["case_id"] for entry in entries)]
                self.folder.save_state(lambda path: keeper.save(model, path, edited))
            spent = (self.folder.seconds - self._io_noted) / len(entries)
            self._io_noted = self.folder.seconds
            entries = [{**entry, "seconds_io": spent} for entry in entries]
            self.folder.journal(*entries)
        self.record(entries, batch)

    def already_correct(self, request: EditRequest) -> bool:
        """Return whether the model, as edited so far, gives a request's answer."""
        return self.board.scorer.forced(self.state.model, [(request.prompt, request.target_new)])[0].exact

    def _edit(self, number: int, batch: list[EditRequest], seconds_before: float) -> list[dict[str, Any]]:
        """Edit a batch and score it; return its lines of the journal.

        Args:
            number: the batch's number, counted from 1.
            batch: the requests.
            seconds_before: how long :meth:`already_correct` took; it counts as scoring.

        Raises:
            RunError: each batch is to be rolled back, and the method returns no rollback.
        """
        plan, state = self.plan, self.state
        began = time.perf_counter()
        rollback: Any = None
        details: list[dict[str, Any]] = []
        failure: dict[str, Any] = {}
        try:
            edited, rollback = plan.method.apply(state.model, self.tokenizer, batch, plan.hparams)
        except EditError as error:
            LOG.warning("%s", f"batch {number}: {error}" if plan.batched else error)
            edited, failure = state.model, {"reason": str(error)}
        else:
            details = [_flat(result.to_dict()) for result in getattr(rollback, "results", None) or []]
        seconds = (time.perf_counter() - began) / len(batch)
        if not plan.consecutive and not failure and not callable(rollback):
            raise RunError(f"{plan.method.name} gives no way back from its edits; single-round needs one")
        began = time.perf_counter()
        try:
            scores = self.score_batch(edited, batch)
        finally:
            if not plan.consecutive and rollback is not None:
                rollback()
        scoring = (time.perf_counter() - began) / len(batch) + seconds_before
        if plan.consecutive:
            state.model = edited
        entries = []
        for index, (request, score) in enumerate(zip(batch, scores, strict=True)):
            outcome = {
                **edit_success_of(score),
                **(details[index] if len(details) == len(batch) else {}),
                **failure,
                "seconds": seconds,
                "seconds_scoring": scoring,
                **({} if plan.consecutive else {"scores": score}),
            }
            entries.append(self._entry("failed" if failure else "edited", number, index + 1, request, outcome))
        return entries

    def _entry(
        self, status: str, number: int, edits: int, request: EditRequest, outcome: dict[str, Any]
    ) -> dict[str, Any]:
        return {
            "status": status,
            **({"batch": number} if self.plan.batched else {}),
            "n_edits": self.state.counts["edited"] + (edits if status == "edited" else 0),
            "case_id": request.case_id,
            "prompt": request.prompt,
            "target_new": request.target_new,
            **outcome,
        }

    def score_batch(self, model: Any, batch: list[EditRequest]) -> list[RequestScores]:
        """Return the scores of a batch right after its edit: in a single round, all its scores."""
        if self.plan.consecutive:
            return self.board.success(model, batch)
        forced, retention = self.board.score_each(model, batch)
        free, _ = self.board.free.score_each(model, batch)
        held_out: RequestScores = {} if retention is None else {"TRR": [retention]}
        return [{**one, **two, **held_out} for one, two in zip(forced, free, strict=True)]


def _flat(result: dict[str, Any]) -> dict[str, Any]:
    """Return a method's report of an edit, with its details beside the rest; ids and batches are the run's."""
    flat = {**result, **(result.get("detail") or {})}
    return {name: value for name, value in flat.items() if name not in ("detail", "case_id", "batch")}
