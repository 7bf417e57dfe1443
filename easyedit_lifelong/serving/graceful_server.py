"""A server that finishes what it has begun when a signal asks it to end, and says so."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn

_SIGINT_EXIT_CODE = 128 + signal.SIGINT


class GracefulServer(uvicorn.Server):
    """An HTTP server. After the first signal it accepts nothing, and ends when all requests are answered.

    A second Ctrl-C ends the process at once. What was acknowledged is on disk then, as after a kill.

    Args:
        config: the server's configuration.
        report: called with a line for the user when the server begins to end.

    Attributes:
        unanswered: how many requests had no answer when the server ended: those that took longer than
            ``timeout_graceful_shutdown``.
    """

    def __init__(self, config: uvicorn.Config, report: Callable[[str], None]) -> None:
        super().__init__(config)
        self.unanswered = 0
        self._report = report
        self._signal: int | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal: begin to end, or end at once."""
        if self._signal is not None and sig == signal.SIGINT:
            # Not through sys.stderr: the signal can have interrupted a write to it. No clean-up: it would wait for the
            # worker thread, which can be in a long batch.
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, b"easyedit-lifelong: stopped at once\n")
            os._exit(_SIGINT_EXIT_CODE)
        if self._signal is None:
            self._signal = sig
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no further requests, and wait for the running ones."""
        if self._signal is not None:
            self._report(f"{signal.Signals(self._signal).name}: {_waiting_text(len(self.server_state.tasks))}")
        await super().shutdown(sockets)
        self.unanswered = sum(not task.done() for task in self.server_state.tasks)


def _waiting_text(running: int) -> str:
    """Return what a server waits for that has this number of unanswered requests."""
    if not running:
        return "no request is being answered, so the server ends"
    subject = f"{running} requests are" if running > 1 else "1 request is"
    return f"{subject} being answered; the server ends after that. Press Ctrl-C again to stop at once"
