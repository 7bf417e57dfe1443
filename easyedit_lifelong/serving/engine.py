"""The engine: one worker thread that owns the model, and a queue of requests and changes.

Requests are generated in one batch, also those of different versions if the method's edits act by row. A change (an
edit, a deletion, a rollback) runs alone, in the order of arrival: earlier requests have begun before it, later ones
begin after it. An answer is generated under one version of the edits, from its beginning to its end.

If the edits act by row, a change runs between two steps of a batch: the answers that run keep the model of their
version (:mod:`~easyedit_lifelong.serving.present_model`). They wait while the change runs. Many changes, one after the
other, take a limited share of the time: answers run between them. Otherwise, a change waits until all running answers
have ended.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from easyedit_lifelong.errors import LifelongError
from easyedit_lifelong.serving.batches import Batch, open_batch
from easyedit_lifelong.serving.earlier_versions import MAX_VERSIONS
from easyedit_lifelong.serving.generation import Row
from easyedit_lifelong.serving.jobs import GenerationJob, Task
from easyedit_lifelong.serving.live_model import LiveModel

LOG = logging.getLogger(__name__)


class QueueFullError(LifelongError):
    """Too many requests wait."""


class ClosedError(LifelongError):
    """The engine accepts no further requests."""


class Engine:
    """Runs a model's requests and changes, one batch or change at a time.

    Args:
        live: the model.
        max_waiting: how many requests and changes may wait.
        max_rows: how many answers are generated at the same time.
        change_share: the largest share of the time that changes take while answers run, above 0. With 0.5, the next
            change begins when the answers have run for as long as the previous one took, or have ended.
        on_step: called after each step of a batch with the number of answers that got tokens, and its seconds.

    Attributes:
        live: the model. Only functions that run on the worker thread may use it; its log may be read anywhere.
    """

    def __init__(
        self,
        live: LiveModel,
        *,
        max_waiting: int = 256,
        max_rows: int = 32,
        change_share: float = 0.5,
        on_step: Callable[[int, float], None] = lambda rows, seconds: None,
    ) -> None:
        self.live = live
        self._max_waiting, self._max_rows, self._on_step = max_waiting, max_rows, on_step
        self._seconds_between = 1 / change_share - 1  # for each second of a change
        self._jobs: list[GenerationJob] = []  # those that are generated now
        self._queue: deque[GenerationJob | Task] = deque()
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

    def run(self, function: Callable[[], Any], *, changes: bool = True) -> Future[Any]:
        """Queue a function that may use the model. Cancelling the future works until the function begins.

        Args:
            function: the function.
            changes: whether it may change the edits.

        Raises:
            QueueFullError: too many requests wait.
            ClosedError: the engine is being closed.
        """
        task = Task(function, changes)
        self._submit(task)
        return task.result

    def close(self) -> None:
        """Finish everything that waits, then end the worker thread. Nothing further is accepted."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _submit(self, job: GenerationJob | Task) -> None:
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
                first = self._queue.popleft()
            if isinstance(first, Task):
                first.run()
            elif not self._end_if_cancelled(first):
                self._generate(first)

    def _generate(self, first: GenerationJob) -> None:
        """Generate the answers of a job, and of others that join it, until all of them are finished."""
        try:
            with open_batch(self.live, self._version_of(first), self._max_rows) as batch:
                self._begin(first, batch)
                for job in self._take_jobs(batch, overtaking=True):
                    self._begin(job, batch)
                to_next = 0.0  # seconds that the answers run before the next change
                while self._jobs:
                    began = time.perf_counter()
                    rows = batch.step()
                    seconds = time.perf_counter() - began
                    self._on_step(rows, seconds)
                    self._end_finished(batch)
                    to_next -= seconds
                    if self._jobs:
                        for job in self._take_jobs(batch, overtaking=False):
                            self._begin(job, batch)
                        if to_next <= 0:
                            to_next = self._seconds_between * self._run_change(batch)
        except BaseException as error:
            if not isinstance(error, LifelongError):
                LOG.exception("a batch failed")
            for job in [first, *self._jobs]:
                job.fail(error)
            self._jobs = []
        finally:
            self.live.present.release()

    def _run_change(self, batch: Batch) -> float:
        """Run the change that is next in the queue, if there is one and answers can run beside it.

        Returns:
            The seconds that it took.
        """
        running = batch.models()
        with self._changed:
            task = self._queue[0] if self._queue else None
            if not isinstance(task, Task) or not self._can_run(task, running):
                return 0.0
            self._queue.popleft()
        began = time.perf_counter()
        batch.detach_edits()
        with self.live.present.answers_running(running):
            task.run()
        return time.perf_counter() - began

    def _can_run(self, task: Task, running: Sequence[Any]) -> bool:
        """Return whether a task can run between two steps of answers that use these models."""
        if task.changes and not task.result.cancelled():
            return self.live.can_change_while_running(running)
        return self.live.mixes_versions

    def _begin(self, job: GenerationJob, batch: Batch) -> None:
        """Add the answers of a job to the batch. If its version can't be loaded, this job fails alone."""
        version = self._version_of(job)
        try:
            for row in job.rows:
                batch.add(row, version)
        except Exception as error:
            if not isinstance(error, LifelongError):
                LOG.exception("version %d can't be loaded", version)
            job.fail(error)
            return
        job.version = version
        self._jobs.append(job)
        job.started.set_result(version)

    def _end_finished(self, batch: Batch) -> None:
        """Tell those who wait which jobs are finished, and release the models that only these needed."""
        finished = [job for job in self._jobs if all(row.finish_reason is not None for row in job.rows)]
        self._jobs = [job for job in self._jobs if job not in finished]
        for job in finished:
            job.finished.set_result(None)
        if finished:
            self.live.present.release(batch.models())

    def _take_jobs(self, batch: Batch, *, overtaking: bool) -> list[GenerationJob]:
        """Remove from the queue the jobs that can join a batch, up to the next change.

        Cancelled jobs are removed, too, and get no answer.

        Args:
            batch: the batch.
            overtaking: whether later jobs are taken if an earlier one can't join. While answers are generated, they
                aren't: the earlier one would have to wait for as long as others join.
        """
        taken: list[GenerationJob] = []
        with self._changed:
            for job in list(self._jobs_before_change()):
                if self._end_if_cancelled(job):
                    self._queue.remove(job)
                elif self._can_mix([*self._jobs, *taken, job]) and batch.has_room(_rows_of([*taken, job])):
                    self._queue.remove(job)
                    taken.append(job)
                elif not overtaking:
                    break
        return taken

    def _jobs_before_change(self) -> Iterator[GenerationJob]:
        """Yield the jobs at the beginning of the queue, up to the first change."""
        for job in self._queue:
            if isinstance(job, Task):
                return
            yield job

    def _can_mix(self, jobs: Sequence[GenerationJob]) -> bool:
        """Return whether one batch can have the versions of these jobs."""
        versions = {self._version_of(job) for job in jobs}
        return len(versions) == 1 or (self.live.mixes_versions and len(versions) <= MAX_VERSIONS)

    def _version_of(self, job: GenerationJob) -> int:
        """Return the version of a job that begins now."""
        return self.live.version if job.version is None else job.version

    def _end_if_cancelled(self, job: GenerationJob) -> bool:
        """Return whether a job was cancelled while it waited; then it gets no answer."""
        cancelled = job.cancelled  # another thread sets it
        if cancelled:
            job.fail(ClosedError("the request was cancelled"))
        return cancelled


def _rows_of(jobs: Sequence[GenerationJob]) -> list[Row]:
    """Return the answers of jobs."""
    return [row for job in jobs for row in job.rows]
