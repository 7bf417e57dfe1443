"""A run of the consecutive-batch loop on its way: batch by batch, and after a kill where it was."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import EditError, HyperParameterError, RunError
from easyedit_lifelong.lifelong.common import Progress, RunState, report, score_all
from easyedit_lifelong.lifelong.folder import JOURNAL, METRICS, SUMMARY, RunFolder
from easyedit_lifelong.lifelong.scoreboard import RequestScores, Scoreboard, averages
from easyedit_lifelong.registry import EditMethod, Tracker

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What is done to every batch."""

    method: EditMethod
    tokenizer: Any
    hparams: Any
    batch_size: int
    eval_every: int
    consecutive: bool

    def check(self, out: Path | str | None, resume: bool) -> None:
        """Check what needs neither model nor data."""
        size, name = self.batch_size, self.method.name
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise HyperParameterError(f"batch_size: {size!r} is not a whole number greater than 0")
        if size > 1 and not self.method.batchable:
            raise HyperParameterError(f"batch_size: {size}, but {name} edits one request at a time. Use 1.")
        if resume and out is None:
            raise RunError("resume needs the folder of the run that was cut short; name it with out=")
        if resume and self.consecutive and self.method.state is None:
            raise RunError(f"{name} can't save its edits, so a consecutive run of it can't be resumed")


@dataclass
class BatchRun:
    """A run on its way."""

    plan: Plan
    state: RunState
    board: Scoreboard
    folder: RunFolder | None
    requests: list[EditRequest]
    trackers: list[Tracker] = field(default_factory=list)
    restored: tuple[float, float] = (0.0, 0.0)
    finished_before: bool = False

    def __post_init__(self) -> None:
        size = self.plan.batch_size
        self.batches = [self.requests[start : start + size] for start in range(0, len(self.requests), size)]
        self.done = 0
        """How many batches are in the journal."""

    # ------------------------------------------------------------------ going on

    def go_on(self, progress: Progress | None) -> None:
        """Deal with the batches that aren't in the journal yet."""
        for batch in self.batches[self.done :]:
            self._take(self.done + 1, batch)
            self.done += 1
            if self._scoring_is_due():
                self._score()
            if progress:
                progress.edited(len(self.state.attempted), self._latest())

    def _scoring_is_due(self) -> bool:
        return self.done % self.plan.eval_every == 0 or self.done == len(self.batches)

    def _take(self, number: int, batch: list[EditRequest]) -> None:
        """Edit a batch, and put on disk what became of it."""
        plan, state = self.plan, self.state
        began = time.perf_counter()
        rollback: Any = None
        results: list[Any] = []
        failure: dict[str, Any] = {}
        try:
            edited, rollback = plan.method.apply(state.model, plan.tokenizer, batch, plan.hparams)
        except EditError as error:
            LOG.warning("batch %d: %s", number, error)
            edited, failure = state.model, {"reason": str(error)}
        else:
            results = [result.to_dict() for result in getattr(rollback, "results", None) or []]
        seconds = (time.perf_counter() - began) / len(batch)
        status = "failed" if failure else "edited"
        if not plan.consecutive and not failure and not callable(rollback):
            raise RunError(f"{plan.method.name} gives no way back from its edits; single-round needs one")
        began = time.perf_counter()
        try:
            scores = self._ask(edited, batch)
        finally:
            if not plan.consecutive and rollback is not None:
                rollback()
        scoring = (time.perf_counter() - began) / len(batch)
        if plan.consecutive:
            state.model = edited
        entries = []
        for index, (request, score) in enumerate(zip(batch, scores, strict=True)):
            state.counts[status] += 1
            entries.append(
                {
                    "status": status, "batch": number, "n_edits": state.counts["edited"], "case_id": request.case_id,
                    "prompt": request.prompt, "target_new": request.target_new, "ES": score["reliability"][0],
                    **(results[index] if len(results) == len(batch) else {}), **failure,
                    "seconds": seconds, "seconds_scoring": scoring, **({} if plan.consecutive else {"scores": score}),
                }
            )  # fmt: skip
        if self.folder:
            self._save(number, entries)
        self._enter(entries, batch)

    def _ask(self, model: Any, batch: list[EditRequest]) -> list[RequestScores]:
        """Score a batch right after it was edited: in a single round, that is all it is ever asked."""
        if self.plan.consecutive:
            questions = [(request.prompt, request.target_new) for request in batch]
            return [{"reliability": [answer.accuracy]} for answer in self.board.scorer.forced(model, questions)]
        forced, retention = self.board.score_each(model, batch)
        free, _ = self.board.score_generation_each(model, batch)
        held_out: RequestScores = {} if retention is None else {"TRR": [retention]}
        return [{**one, **two, **held_out} for one, two in zip(forced, free, strict=True)]

    def _save(self, number: int, entries: list[dict[str, Any]]) -> None:
        """Put the edits on disk, and then the lines that say so."""
        assert self.folder is not None
        keeper = self.plan.method.state if self.plan.consecutive else None
        edited = entries[0]["status"] == "edited"
        if keeper is not None and edited:
            self.folder.save_state(number, lambda path: keeper.save(self.state.model, path))
        self.folder.journal(*entries)
        if keeper is not None and edited:
            self.folder.drop_states(keep=number)

    def _enter(self, entries: list[dict[str, Any]], batch: list[EditRequest]) -> None:
        self.state.journal += entries
        self.state.attempted += batch
        self.state.success += [entry["ES"] for entry in entries]
        for kind, name in (("editing", "seconds"), ("scoring", "seconds_scoring")):
            self.state.seconds[kind] += sum(entry[name] for entry in entries)

    def _score(self) -> None:
        last = self.done == len(self.batches)
        if self.plan.consecutive:
            score_all(self.state, self.board, self.folder, self.trackers, generated=last, batch=self.done)
        else:
            report(self.state, self._single_round_scores(), self.folder, self.trackers, batch=self.done)

    def _single_round_scores(self) -> dict[str, float]:
        scores = averages([entry["scores"] for entry in self.state.journal])
        retained = {"ERR": scores["reliability"]} if "reliability" in scores else {}
        return {**self.state.edit_success(), **retained, **scores}

    def _latest(self) -> dict[str, float]:
        if self.plan.consecutive:
            return self.state.latest()
        shown = ("ES", "generality", "locality")
        return {name: score for name, score in self._single_round_scores().items() if name in shown}

    # ------------------------------------------------------------------ taking up again

    def restore(self) -> None:
        """Take up the run that lies in the folder, after the last whole batch in its journal.

        Raises:
            RunError: its files contradict each other, or the data.
        """
        assert self.folder is not None
        state, folder = self.state, self.folder
        entries = folder.read(JOURNAL)
        self.done = next(
            (n for n, batch in enumerate(self.batches) if not _is_journaled(entries, n + 1, batch)), len(self.batches)
        )
        whole = sum(len(batch) for batch in self.batches[: self.done])
        if any(entry.get("batch", 0) <= self.done for entry in entries[whole:]):
            raise RunError(f"{folder.path / JOURNAL}: isn't the journal of these data; this run can't be resumed")
        entries = entries[:whole]
        folder.rewrite(JOURNAL, entries)
        edited = [entry["batch"] for entry in entries if entry["status"] == "edited"]
        if self.plan.consecutive and edited:
            self._load(edited[-1])
        for entry in entries:
            state.counts[entry["status"]] += 1
        self._enter(entries, self.requests[:whole])
        curve = [entry for entry in folder.read(METRICS) if entry["batch"] <= self.done]
        folder.rewrite(METRICS, curve)
        state.curve += curve
        state.seconds["scoring"] += sum(entry.get("seconds_scoring", 0.0) for entry in curve)
        self.restored = (
            sum(entry["seconds"] + entry["seconds_scoring"] for entry in entries),
            sum(entry.get("seconds_scoring", 0.0) for entry in curve),
        )
        for entry in curve:
            scores = {k: v for k, v in entry.items() if k not in ("n_edits", "batch", "seconds_scoring")}
            for tracker in self.trackers:
                tracker.log(entry["n_edits"], scores)
        self.finished_before = self.done == len(self.batches) and (folder.path / SUMMARY).exists()
        # The run may have been killed between a batch and the scoring that was due after it.
        if self.done and self._scoring_is_due() and (not curve or curve[-1]["batch"] != self.done):
            self._score()

    def _load(self, batch: int) -> None:
        assert self.folder is not None and self.plan.method.state is not None
        path = self.folder.state(batch)
        if not path.is_dir():
            raise RunError(f"{path}: the edits as they were after batch {batch} aren't there; can't resume this run")
        self.plan.method.state.load(self.state.model, self.plan.tokenizer, self.plan.hparams, path)


def _is_journaled(entries: Sequence[dict[str, Any]], number: int, batch: list[EditRequest]) -> bool:
    """Whether the journal has every line of a batch; a kill can cut off the last ones."""
    found = [entry.get("case_id") for entry in entries if entry.get("batch") == number]
    return found == [request.case_id for request in batch]
