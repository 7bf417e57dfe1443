"""A run on its way: request by request, or batch by batch."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import EditError, HyperParameterError, RunError
from easyedit_lifelong.evaluation.scoreboard import RequestScores, Scoreboard, averages, edit_success_of
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.registry import Tracker
from easyedit_lifelong.runs.checks import Progress, RunState, tell
from easyedit_lifelong.runs.run_folder import RunFolder
from easyedit_lifelong.runs.run_scores import report, score_all, single_round_scores
from easyedit_lifelong.runs.schedule import Schedule

LOG = logging.getLogger(__name__)

LIFELONG, CONSECUTIVE = "lifelong", "consecutive"
"""The two loops."""


@dataclass(frozen=True)
class Plan:
    """What is done to every batch.

    Attributes:
        loop: which loop this is. The lifelong one takes requests one by one and counts edits; the consecutive one
            counts batches.
        method: the editing method.
        tokenizer: the model's.
        hparams: the method's hyperparameters.
        schedule: when past edits are scored.
        batch_size: requests per batch.
        consecutive: whether an edit stays when the next is made; else each batch is rolled back once it is scored.
        only_errors: leave out requests whose answer the model, as edited so far, already gives.
    """

    loop: str
    method: EditMethod
    tokenizer: Any
    hparams: Any
    schedule: Schedule
    batch_size: int = 1
    consecutive: bool = True
    only_errors: bool = False

    @property
    def protocol(self) -> str:
        """The protocol's name."""
        return "consecutive" if self.consecutive else "single-round"

    @property
    def seed(self) -> int:
        """What the sample of past edits is drawn with."""
        return int(getattr(self.hparams, "seed", 0) or 0)

    @property
    def resumable(self) -> bool:
        """Whether a run that was cut short can be taken up: its edits are on disk, or each stands alone."""
        return self.method.state is not None or not self.consecutive

    def check(self, out: Path | str | None, resume: bool) -> None:
        """Check what needs neither model nor data."""
        size, name = self.batch_size, self.method.name
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise HyperParameterError(f"batch_size: {size!r} is not a whole number greater than 0")
        if size > 1 and not self.method.batchable:
            raise HyperParameterError(f"batch_size: {size}, but {name} edits one request at a time. Use 1.")
        if resume and out is None:
            raise RunError("resume needs the folder of the run that was cut short; name it with out=")
        if resume and not self.resumable:
            raise RunError(f"{name} can't save its edits, so a {self.loop} run of it can't be resumed")


@dataclass
class Run:
    """A run on its way.

    Attributes:
        edited: the case_ids of the edits that the model carries.
        done: how many batches have been dealt with.
        io_before: seconds that writing took before the run was cut short.
    """

    plan: Plan
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
        """How much of what the folder took to write stands in the journal."""

    def go_on(self, progress: Progress | None) -> None:
        """Deal with the batches that haven't been yet."""
        for batch in self.batches[self.done :]:
            before, dealt, scored = self.state.counts["edited"], len(self.state.journal), len(self.state.curve)
            self._take(self.done + 1, batch)
            self.done += 1
            if self.scoring_is_due(before):
                self.score()
            self.note_io()
            if progress:
                tell(progress, "journaled", self.state.journal[dealt:])
                tell(progress, "scored", self.state.curve[scored:])
                progress.edited(len(self.state.journal), self.latest())

    def scoring_is_due(self, edits_before: int) -> bool:
        """Tell whether to score now, given how many edits were made before the latest batch."""
        edits = self.state.counts["edited"]
        if self.done == len(self.batches):
            return True
        if self.plan.loop == CONSECUTIVE:
            return self.plan.schedule.due(self.done, edits_before, edits)
        return edits > edits_before and self.plan.schedule.due(edits, edits_before, edits)

    def note_io(self) -> None:
        """Take over how long writing has taken so far."""
        self.state.seconds["io"] = self.io_before + (self.folder.seconds if self.folder else 0.0)

    def score(self) -> None:
        """Score all edits so far."""
        last, schedule = self.done == len(self.batches), self.plan.schedule
        at: dict[str, Any] = {"batch": self.done} if self.plan.loop == CONSECUTIVE else {}
        at["n_seen"] = len(self.state.journal)
        if not self.plan.consecutive:
            began = time.perf_counter()
            scores = single_round_scores(self.state)
            seconds = time.perf_counter() - began
            self.state.seconds["scoring"] += seconds
            report(self.state, scores, self.folder, self.trackers, **at, seconds_scoring=seconds)
            return
        sampled = {} if schedule.sample is None else {"sample": schedule.sample, "seed": self.plan.seed}
        score_all(
            self.state, self.board, self.folder, self.trackers, generated=last, counts=self.plan.method.counts,
            **sampled, **at,
        )  # fmt: skip

    def latest(self) -> dict[str, float]:
        """Return what a progress display shows."""
        if self.plan.consecutive:
            return self.state.latest()
        said = [entry["scores"] for entry in self.state.journal]
        rest = averages([{name: one.get(name, []) for name in ("generality", "locality")} for one in said])
        return {**self.state.edit_success(), **rest}

    def enter(self, entries: Sequence[dict[str, Any]], batch: Sequence[EditRequest]) -> None:
        """Take over what became of requests."""
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

    def _take(self, number: int, batch: list[EditRequest]) -> None:
        """Edit a batch, and put on disk what became of it."""
        plan = self.plan
        began = time.perf_counter()
        if plan.only_errors and self._knows(batch[0]):
            seconds = time.perf_counter() - began
            why = {"reason": "the model already gives this answer", "seconds_scoring": seconds}
            entries = [self._entry("skipped", number, 0, request, why) for request in batch]
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
        self.enter(entries, batch)

    def _knows(self, request: EditRequest) -> bool:
        return self.board.scorer.forced(self.state.model, [(request.prompt, request.target_new)])[0].exact

    def _edit(self, number: int, batch: list[EditRequest], asking: float) -> list[dict[str, Any]]:
        """Edit a batch and score it; return its lines of the journal."""
        plan, state = self.plan, self.state
        began = time.perf_counter()
        rollback: Any = None
        results: list[dict[str, Any]] = []
        failure: dict[str, Any] = {}
        try:
            edited, rollback = plan.method.apply(state.model, plan.tokenizer, batch, plan.hparams)
        except EditError as error:
            LOG.warning("%s", error if plan.loop == LIFELONG else f"batch {number}: {error}")
            edited, failure = state.model, {"reason": str(error)}
        else:
            results = [_flat(result.to_dict()) for result in getattr(rollback, "results", None) or []]
        seconds = (time.perf_counter() - began) / len(batch)
        if not plan.consecutive and not failure and not callable(rollback):
            raise RunError(f"{plan.method.name} gives no way back from its edits; single-round needs one")
        began = time.perf_counter()
        try:
            scores = self._ask(edited, batch)
        finally:
            if not plan.consecutive and rollback is not None:
                rollback()
        scoring = (time.perf_counter() - began) / len(batch) + asking
        if plan.consecutive:
            state.model = edited
        entries = []
        for index, (request, score) in enumerate(zip(batch, scores, strict=True)):
            what = {
                **edit_success_of(score), **(results[index] if len(results) == len(batch) else {}), **failure,
                "seconds": seconds, "seconds_scoring": scoring, **({} if plan.consecutive else {"scores": score}),
            }  # fmt: skip
            entries.append(self._entry("failed" if failure else "edited", number, index + 1, request, what))
        return entries

    def _entry(
        self, status: str, number: int, edits: int, request: EditRequest, what: dict[str, Any]
    ) -> dict[str, Any]:
        n_edits = self.state.counts["edited"] + (edits if status == "edited" else 0)
        batch = {"batch": number} if self.plan.loop == CONSECUTIVE else {}
        asked = {"case_id": request.case_id, "prompt": request.prompt, "target_new": request.target_new}
        return {"status": status, **batch, "n_edits": n_edits, **asked, **what}

    def _ask(self, model: Any, batch: list[EditRequest]) -> list[RequestScores]:
        """Score a batch right after it was edited: in a single round, that is all it is ever asked."""
        if self.plan.consecutive:
            return self.board.success(model, batch)
        forced, retention = self.board.score_each(model, batch)
        free, _ = self.board.score_generation_each(model, batch)
        held_out: RequestScores = {} if retention is None else {"TRR": [retention]}
        return [{**one, **two, **held_out} for one, two in zip(forced, free, strict=True)]


def _flat(result: dict[str, Any]) -> dict[str, Any]:
    """Return what a method reports of an edit, its own details beside the rest; ids and batches are the run's."""
    flat = {**result, **(result.get("detail") or {})}
    return {name: value for name, value in flat.items() if name not in ("detail", "case_id", "batch")}
