"""The launcher that runs cells in processes of this machine, a new process for each cell."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

from easyedit_lifelong.plugins import BUILT_IN, get_plugins
from easyedit_lifelong.runs.sweep.launcher import POLL_SECONDS, CellEnd, Ends
from easyedit_lifelong.runs.sweep.run_cell import CellJob, RunCell, open_log, outcome_of, run_cell
from easyedit_lifelong.signals import Stopped, interrupting_signals

_SECONDS_TO_END = 5
"""How long a process that is to stop may take before it is killed."""


class ProcessLauncher:
    """Runs a number of cells at a time.

    A process for each cell, rather than a pool: when the system kills one, the others are not affected, and each
    returns its memory at its end.

    Args:
        workers: how many cells run at a time.
        threads: the number of threads that torch may use in each cell.
        run: the function that runs a cell; it must be importable.
    """

    def __init__(self, workers: int, threads: int, run: RunCell = run_cell) -> None:
        self.workers, self.threads, self.run = workers, threads, run

    def launch(self, jobs: Sequence[CellJob]) -> Ends:
        """Start the cells, and yield their ends; see :class:`~easyedit_lifelong.runs.sweep.launcher.Launcher`."""
        context = _context()
        waiting = deque(jobs)
        running: list[_RunningCell] = []
        try:
            while waiting or running:
                while waiting and len(running) < self.workers:
                    running.append(self._start(context, waiting.popleft()))
                ended = _wait_for_ends(running)
                for cell in ended:
                    running.remove(cell)
                    yield CellEnd(cell.job.name, cell.failure())
                if not ended:
                    yield None
        finally:
            _stop(running)

    def _start(self, context: BaseContext, job: CellJob) -> _RunningCell:
        """Start the process of a cell."""
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(  # type: ignore[attr-defined]
            target=_work, args=(self.run, job, self.threads, sender), name=job.name
        )
        process.start()
        sender.close()
        return _RunningCell(job, process, receiver)


@dataclass(eq=False)
class _RunningCell:
    """A cell in its process.

    Attributes:
        job: the cell.
        process: its process.
        connection: what its outcome comes through; closed when nothing more can come.
        received: whether its outcome has come.
        outcome: its outcome, when it has come: None if it is finished, else the reason why it failed.
    """

    job: CellJob
    process: BaseProcess
    connection: Connection
    received: bool = False
    outcome: str | None = None

    def receive(self) -> None:
        """Receive the outcome, unless the process died before it could send it."""
        if not self.connection.closed:
            with contextlib.suppress(EOFError, OSError):
                if self.connection.poll():
                    self.outcome = self.connection.recv()
                    self.received = True
            self.connection.close()

    def failure(self) -> str | None:
        """Return why the cell of an ended process failed; None if it is finished."""
        self.receive()
        self.process.join()
        if self.received:
            return self.outcome
        code = self.process.exitcode or 0
        if code == -signal.SIGKILL:
            return "its process was killed (SIGKILL); perhaps the memory was used up"
        number = -code if code < 0 else code - 128
        return f"its process ended with {f'signal {number}' if number > 0 else f'exit code {code}'}"


def _wait_for_ends(running: Sequence[_RunningCell]) -> list[_RunningCell]:
    """Return the cells whose processes have ended, after :data:`POLL_SECONDS` at most.

    A process with a long outcome can't end before it is received, since the outcome does not fit into the pipe.
    """
    connections = [cell.connection for cell in running if not cell.connection.closed]
    ready = wait([*(cell.process.sentinel for cell in running), *connections], POLL_SECONDS)
    for cell in running:
        if cell.connection in ready:
            cell.receive()
    return [cell for cell in running if cell.process.sentinel in ready]


def _context() -> Any:
    """Return how processes are started: forked from a server that has imported the package, where that is possible."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")  # Windows
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_preloaded())
    _start_server()
    return context


def _preloaded() -> list[str]:
    """Return the modules that cells need, which the server imports once, with the methods of this package."""
    plugins = get_plugins()
    methods = {method.module for name, method in plugins.deferred.items() if plugins.methods.origin(name) in BUILT_IN}
    return ["transformers.models.auto.modeling_auto", *BUILT_IN, *sorted(methods), __name__]


def _start_server() -> None:
    """Start the server from which processes are forked, with Ctrl-C ignored in it and in them.

    An interrupt at the terminal reaches all processes; the parent stops the cells. Without this, the server would end
    with a traceback while it imports the package.
    """
    from multiprocessing import forkserver  # Windows has none

    if threading.current_thread() is not threading.main_thread():  # only the main thread can set handlers
        forkserver.ensure_running()
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which processes that are started inherit
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, before)


def _work(run: RunCell, job: CellJob, threads: int, outcome: Connection) -> None:
    """Run a cell in this process, which runs no other, and send its outcome."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt at the terminal reaches all; the parent stops the cells
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with open_log(job.log) as log:  # bars and messages of libraries would disturb the parent's display
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        with interrupting_signals():
            outcome.send(outcome_of(run, job, threads))
    except Stopped as stopped:  # by the parent, for example; the interpreter then cleans up
        sys.exit(stopped.exit_code)


def _end_with_parent() -> None:
    """End this process when its parent ends, even if the parent was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _stop(cells: Sequence[_RunningCell]) -> None:
    """Stop the processes of cells: ask them to end, then kill those that don't."""
    for cell in cells:
        cell.process.terminate()
    for cell in cells:
        cell.process.join(_SECONDS_TO_END)
        if cell.process.exitcode is None:
            cell.process.kill()
            cell.process.join()
        cell.connection.close()
