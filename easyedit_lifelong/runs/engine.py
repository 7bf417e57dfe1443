"""The loop over the batches of a run. In the lifelong loop, each batch is one request."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.evaluation.averages import averages
from easyedit_lifelong.evaluation.judged_answers import JudgedAnswers
from easyedit_lifelong.evaluation.scoreboard import Scoreboard, edit_success_of
from easyedit_lifelong.registry import Tracker
from easyedit_lifelong.runs.apply_batch import apply_batch
from easyedit_lifelong.runs.peak_memory import PeakMemory
from easyedit_lifelong.runs.plan import Plan
from easyedit_lifelong.runs.run_folder import RunFolder
from easyedit_lifelong.runs.run_scores import record_scores, score_all, scores_after_edit, single_round_scores
from easyedit_lifelong.runs.scoring_errors import named_scoring_errors
from easyedit_lifelong.runs.state import Progress, RunState


@dataclass
class Run:
    """A run in progress.

    Attributes:
        plan: the plan of the run.
        tokenizer: the model's tokenizer.
        state: the edits and scores so far.
        board: the scoreboard that scores the edits.
        folder: the run's folder; None if nothing is written.
        requests: all requests of the run.
        trackers: the trackers that receive the scores.
        judged: scores generated answers with a judge; None for no such scores.
        edited: the case_ids of the edits in the model, in order.
        done: the number of batches that were processed.
        io_before: seconds of writing before the run was interrupted; 0 if it was not resumed.
        has_rollback: whether the method's ``apply`` returned a rollback of its latest batch; True before the first.
        batches: the requests, divided into batches.
        memory: measures the peak of memory.
    """

    plan: Plan
    tokenizer: Any
    state: RunState
    board: Scoreboard
    folder: RunFolder | None
    requests: list[EditRequest]
    trackers: list[Tracker] = field(default_factory=list)
    judged: JudgedAnswers | None = None
    edited: list[int | str] = field(default_factory=list)
    done: int = 0
    io_before: float = 0.0
    has_rollback: bool = True

    def __post_init__(self) -> None:
        size = self.plan.batch_size
        self.batches = [self.requests[start : start + size] for start in range(0, len(self.requests), size)]
        self.memory = PeakMemory(self.state.model)
        self._io_journaled = 0.0
        """Seconds of writing that the lines of the journal already account for."""

    def run_remaining(self, progress: Progress | None) -> None:
        """Process the remaining batches, and score when the schedule says so.

        Args:
            progress: receives every new line of the journal and of the scores.
        """
        for batch in self.batches[self.done :]:
            state = self.state
            edits_before, lines_before, scorings_before = state.counts["edited"], len(state.journal), len(state.curve)
            self.process_batch(self.done + 1, batch)
            self.done += 1
            if self.scoring_is_due(edits_before):
                self.score()
            self.update_io_seconds()
            self.notify(progress, lines_before, scorings_before)

    def notify(self, progress: Progress | None, lines_before: int = 0, scorings_before: int = 0) -> None:
        """Report new lines of the journal, new scorings and the latest scores to a progress display.

        Args:
            progress: the display; None if there is none.
            lines_before: how many lines of the journal the display has received before.
            scorings_before: how many scorings the display has received before.
        """
        if progress is None:
            return
        journal, curve = self.state.journal, self.state.curve
        for name, entries in (("journaled", journal[lines_before:]), ("scored", curve[scorings_before:])):
            listener = getattr(progress, name, None)  # optional
            if listener is not None:
                for entry in entries:
                    listener(entry)
        progress.edited(len(journal), self.latest())

    def scoring_is_due(self, edits_before: int) -> bool:
        """Return whether to score after the latest batch: at the end, and when the schedule says so.

        Args:
            edits_before: the number of edits before the latest batch.
        """
        return self.done == len(self.batches) or self.is_scheduled(self.done, edits_before, self.state.counts["edited"])

    def is_scheduled(self, batches: int, edits_before: int, edits: int) -> bool:
        """Return whether the schedule says to score after a batch.

        Args:
            batches: the number of batches, this one included.
            edits_before: the number of edits before this batch.
            edits: the number of edits after it.
        """
        if self.plan.batched:
            return self.plan.schedule.due(batches, edits_before, edits)
        # In the lifelong loop, the schedule counts edits: a request without an edit is no step of it.
        return edits > edits_before and self.plan.schedule.due(edits, edits_before, edits)

    def update_io_seconds(self) -> None:
        """Set the state's seconds of writing: those before the run was interrupted, and those since then."""
        self.state.seconds["io"] = self.io_before + (self.folder.seconds if self.folder else 0.0)

    def score(self) -> None:
        """Score past edits, and report the scores.

        Raises:
            PluginError: code of a plugin fails.
        """
        plan, state = self.plan, self.state
        with self._named_errors(state.model, state.attempted):
            position: dict[str, Any] = {"batch": self.done} if plan.batched else {}
            position["n_seen"] = len(state.journal)
            if not plan.keeps_edits:
                began = time.perf_counter()
                scores = single_round_scores(state)
                seconds = time.perf_counter() - began
                state.seconds["scoring"] += seconds
                record_scores(state, scores, self.folder, self.trackers, **position, seconds_scoring=seconds)
                return
            score_all(
                state,
                self.board,
                self.folder,
                self.trackers,
                thorough=self.done == len(self.batches),
                sample=plan.schedule.sample,
                seed=plan.seed,
                counts=plan.method.counts,
                judged=self.judged,
                **position,
            )

    def latest(self) -> dict[str, float]:
        """Return the scores that a progress display shows."""
        if self.plan.keeps_edits:
            return self.state.latest()
        names = ("generality", "locality")
        by_request = [{name: entry["scores"].get(name, []) for name in names} for entry in self.state.journal]
        return {**self.state.edit_success(), **averages(by_request)}

    def record(self, entries: Sequence[dict[str, Any]], batch: Sequence[EditRequest]) -> None:
        """Add lines of the journal to the state.

        Args:
            entries: the lines.
            batch: the request of each line.
        """
        state = self.state
        for entry, request in zip(entries, batch, strict=True):
            state.record(entry)
            if entry["status"] == "edited":
                self.edited.append(request.case_id)
            if entry["status"] != "skipped":
                state.attempted.append(request)

    def process_batch(self, number: int, batch: list[EditRequest]) -> None:
        """Edit a batch, save the edits, and write the lines of the journal.

        Args:
            number: the batch's number, counted from 1.
            batch: the requests.

        Raises:
            RunError: the run's folder cannot be written; or a single-round run needs a rollback that the method
                does not return.
        """
        plan = self.plan
        began = time.perf_counter()
        if plan.experiment.only_errors and self.already_correct(batch[0]):
            seconds = time.perf_counter() - began
            outcome = {"reason": "the model already gives this answer", "seconds_scoring": seconds}
            entries = [self._entry("skipped", number, 0, request, outcome) for request in batch]
        else:
            entries = self._edit(number, batch, time.perf_counter() - began)
        if self.folder:
            if plan.keeps_edits and entries[0]["status"] == "edited":
                self._save_edits(self.folder, batch)
            seconds_io = (self.folder.seconds - self._io_journaled) / len(entries)
            self._io_journaled = self.folder.seconds
            entries = [{**entry, "seconds_io": seconds_io} for entry in entries]
            self.folder.journal(*entries)
        self.record(entries, batch)

    def _save_edits(self, folder: RunFolder, batch: list[EditRequest]) -> None:
        """Write the edits of all batches so far, the latest included, to the state folder, if the method can."""
        state_keeper, model = self.plan.method.state, self.state.model
        if state_keeper is not None:
            case_ids = [*self.edited, *(request.case_id for request in batch)]
            folder.save_state(lambda path: state_keeper.save(model, path, case_ids))

    def already_correct(self, request: EditRequest) -> bool:
        """Return whether the model, as edited so far, gives the request's target (teacher-forced)."""
        with self._named_errors(self.state.model, [request]):
            return self.board.scorer.forced(self.state.model, [(request.prompt, request.target_new)])[0].exact

    def _named_errors(self, model: Any, requests: Sequence[EditRequest]) -> AbstractContextManager[None]:
        """Return a context that names other people's code that fails while these requests are scored on a model."""
        return named_scoring_errors(self.plan.method, self.board.scorer, model, requests, self.folder)

    def _edit(self, number: int, batch: list[EditRequest], seconds_before: float) -> list[dict[str, Any]]:
        """Edit a batch, score it, and return its lines of the journal.

        Args:
            number: the batch's number, counted from 1.
            batch: the requests.
            seconds_before: seconds that :meth:`already_correct` took before; they count as scoring.

        Raises:
            RunError: a single-round run needs a rollback, and the method returns none.
        """
        plan = self.plan
        began = time.perf_counter()
        applied = apply_batch(plan, self.state.model, self.tokenizer, batch, number, self.memory)
        seconds = (time.perf_counter() - began) / len(batch)
        succeeded = applied.failure is None
        if succeeded:
            self.has_rollback = callable(applied.rollback)
        if not plan.keeps_edits and succeeded and not callable(applied.rollback):
            raise RunError(
                f"{plan.method.name} returns no rollback of its edits, which the single-round protocol needs. "
                "Use the consecutive protocol."
            )
        began = time.perf_counter()
        try:
            with self._named_errors(applied.model, batch):
                scores = scores_after_edit(self.board, applied.model, batch, final=not plan.keeps_edits)
        finally:
            if not plan.keeps_edits and applied.rollback is not None:
                applied.rollback()
        seconds_scoring = (time.perf_counter() - began) / len(batch) + seconds_before
        if plan.keeps_edits:
            self.state.model = applied.model
        entries = []
        for index, (request, scores_of_request) in enumerate(zip(batch, scores, strict=True)):
            outcome = {
                **edit_success_of(scores_of_request),
                **(applied.details[index] if applied.details else {}),
                **({} if succeeded else {"reason": applied.failure}),
                "seconds": seconds,
                "seconds_scoring": seconds_scoring,
                **({} if applied.peak_memory is None else {"peak_memory": applied.peak_memory}),
                **({} if plan.keeps_edits else {"scores": scores_of_request}),
            }
            entries.append(self._entry("edited" if succeeded else "failed", number, index + 1, request, outcome))
        return entries

    def _entry(
        self, status: str, number: int, edits_in_batch: int, request: EditRequest, outcome: dict[str, Any]
    ) -> dict[str, Any]:
        """Return a line of the journal.

        Args:
            status: ``edited``, ``failed`` or ``skipped``.
            number: the batch's number, counted from 1.
            edits_in_batch: the number of edits in the batch up to and including this request.
            request: the request.
            outcome: the scores and times of the request, and what the method reports: further fields of the line.
        """
        return {
            "status": status,
            **({"batch": number} if self.plan.batched else {}),
            "n_edits": self.state.counts["edited"] + (edits_in_batch if status == "edited" else 0),
            "case_id": request.case_id,
            "prompt": request.prompt,
            "target_new": request.target_new,
            **({} if request.question_span is None else {"question": request.question}),
            **outcome,
        }
