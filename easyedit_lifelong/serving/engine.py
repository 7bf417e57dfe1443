"""The engine: one worker thread that owns the model, and a queue of requests and changes.

Requests that wait are generated together, also those of different versions if the method's edits act by row. A change
(an edit, a deletion, a rollback) runs alone, between two batches, in the order of arrival. So an answer is generated
wholly under one version of the edits.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from easyedit_lifelong.errors import LifelongError
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.padding import generation_groups
from easyedit_lifelong.serving.earlier_versions import MAX_VERSIONS
from easyedit_lifelong.serving.generation import Row, generate_rows
from easyedit_lifelong.serving.live_model import LiveModel

LOG = logging.getLogger(__name__)


class QueueFullError(LifelongError):
    """Too many requests wait."""


class ClosedError(LifelongError):
    """The engine accepts no further requests."""


@dataclass(eq=False)
class GenerationJob:
    """A request for answers, all of one version.

    Attributes:
        rows: its answers.
        version: the version that was asked for; None for the present one.
        started: receives the version when generation begins.
        finished: is done when all rows are finished.
    """

    rows: Sequence[Row]
    version: int | None = None
    started: Future[int] = field(default_factory=Future)
    finished: Future[None] = field(default_factory=Future)

    def __post_init__(self) -> None:
        """Mark the futures as running: those who wait for them can't cancel them."""
        self.started.set_running_or_notify_cancel()
        self.finished.set_running_or_notify_cancel()

    def cancel(self) -> None:
        """End the answers as soon as possible."""
        for row in self.rows:
            row.cancelled = True

    @property
    def cancelled(self) -> bool:
        """Whether all answers were cancelled."""
        return all(row.cancelled for row in self.rows)

    def fail(self, error: BaseException) -> None:
        """Pass an error on to those who wait for the answers."""
        for future in (self.started, self.finished):
            if not future.done():
                future.set_exception(error)


@dataclass(eq=False)
class _Task:
    """A function that runs alone on the worker thread."""

    function: Callable[[], Any]
    result: Future[Any] = field(default_factory=Future)

    def run(self) -> None:
        """Run the function, unless it was cancelled while it waited."""
        if not self.result.set_running_or_notify_cancel():
            return
        try:
            self.result.set_result(self.function())
        except BaseException as error:
            self.result.set_exception(error)


class Engine:
    """Runs a model's requests and changes, one batch or change at a time.

    Args:
        live: the model.
        max_waiting: how many requests and changes may wait.
        max_rows: how many answers a batch may have.
        on_batch: called after each batch with its number of rows and its seconds.

    Attributes:
        live: the model. Only functions that run on the worker thread may use it; its log may be read anywhere.
    """

    def __init__(
        self,
        live: LiveModel,
        *,
        max_waiting: int = 256,
        max_rows: int = 32,
        on_batch: Callable[[int, float], None] = lambda rows, seconds: None,
    ) -> None:
        self.live = live
        self._max_waiting, self._max_rows, self._on_batch = max_waiting, max_rows, on_batch
        self._context = context_length(live.model)
        self._queue: deque[GenerationJob | _Task] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="easyedit-lifelong-engine", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many requests and changes wait."""
        return len(self._queue)

    def generate(self, rows: Sequence[Row], version: int | None = None) -> GenerationJob:
        """Queue a request for answers.

        Args:
            rows: the answers. Each prompt and its ``max_tokens`` fit the model's context.
            version: the version to answer as of; None for the present one.

        Raises:
            QueueFullError: too many requests wait.
            ClosedError: the engine is being closed.
        """
        job = GenerationJob(rows, version)
        self._submit(job)
        return job

    def run(self, function: Callable[[], Any]) -> Future[Any]:
        """Queue a function that may use and change the model. Cancelling the future works until the function begins.

        Raises:
            QueueFullError: too many requests wait.
            ClosedError: the engine is being closed.
        """
        task = _Task(function)
        self._submit(task)
        return task.result

    def close(self) -> None:
        """Finish everything that waits, then end the worker thread. Nothing further is accepted."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _submit(self, job: GenerationJob | _Task) -> None:
        """Add a job to the queue."""
        with self._changed:
            if self._closing:
                raise ClosedError("the server is shutting down")
            if len(self._queue) >= self._max_waiting:
                raise QueueFullError(f"{self._max_waiting} requests wait already; try again later")
            self._queue.append(job)
            self._changed.notify_all()

    def _work(self) -> None:
        """Run the jobs of the queue until it is closed and empty."""
        while True:
            with self._changed:
                while not self._queue and not self._closing:
                    self._changed.wait()
                if not self._queue:
                    return
                first = self._queue[0]
                if isinstance(first, _Task):
                    self._queue.popleft()
                batch = [] if isinstance(first, _Task) else self._take_batch(first)
            if isinstance(first, _Task):
                first.run()
            elif batch:
                self._generate(batch)

    def _take_batch(self, first: GenerationJob) -> list[GenerationJob]:
        """Remove from the queue the jobs that can be generated together with the first one.

        Only jobs before the next change are taken. Cancelled jobs are removed, too, and get no answer.
        """
        batch: list[GenerationJob] = []
        candidates = list(self._jobs_before_change())
        for job in candidates:
            if job.cancelled:
                self._queue.remove(job)
                job.fail(ClosedError("the request was cancelled"))
            elif self._can_mix([first, *batch, job]) and self._fits([*batch, job]):
                self._queue.remove(job)
                batch.append(job)
        return batch

    def _jobs_before_change(self) -> Iterator[GenerationJob]:
        """Yield the jobs at the beginning of the queue, up to the first change."""
        for job in self._queue:
            if isinstance(job, _Task):
                return
            yield job

    def _can_mix(self, jobs: Sequence[GenerationJob]) -> bool:
        """Return whether one batch can have the versions of these jobs."""
        versions = {job.version for job in jobs}
        return len(versions) == 1 or (self.live.mixes_versions and len(versions) <= MAX_VERSIONS)

    def _fits(self, jobs: Sequence[GenerationJob]) -> bool:
        """Return whether jobs can be one batch. A single job always can."""
        return len(jobs) == 1 or self._fit_together([row for job in jobs for row in job.rows])

    def _fit_together(self, rows: Sequence[Row]) -> bool:
        """Return whether rows are few enough, and the longest prompt with the longest answer fits the context."""
        width = max(len(row.prompt) for row in rows) + max(row.sampling.max_tokens for row in rows)
        return len(rows) <= self._max_rows and (self._context is None or width <= self._context + 1)

    def _generate(self, batch: Sequence[GenerationJob]) -> None:
        """Generate the answers of a batch, each under one version."""
        began = time.perf_counter()
        rows = [row for job in batch for row in job.rows]
        present = self.live.version
        versions = {job: present if job.version is None else job.version for job in batch}
        version_of_row = {id(row): versions[job] for job in batch for row in job.rows}
        try:
            with self.live.at_versions(set(versions.values())) as model_for:
                for job, version in versions.items():
                    job.started.set_result(version)
                for group in self._groups(rows):
                    # In some models, padding changes the answers.
                    for numbers in generation_groups(self.live.model, len(group)):
                        part = [group[number] for number in numbers]
                        with model_for([version_of_row[id(row)] for row in part]) as model:
                            generate_rows(model, self.live.tokenizer, part)
        except BaseException as error:
            if not isinstance(error, LifelongError):
                LOG.exception("a batch failed")
            for job in batch:
                job.fail(error)
            return
        self._on_batch(len(rows), time.perf_counter() - began)
        for job in batch:
            job.finished.set_result(None)

    def _groups(self, rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
        """Yield the rows of a batch in groups that fit the model; only a single request can need several."""
        group: list[Row] = []
        for row in sorted(rows, key=lambda row: len(row.prompt)):
            if group and not self._fit_together([*group, row]):
                yield group
                group = []
            group.append(row)
        yield group
