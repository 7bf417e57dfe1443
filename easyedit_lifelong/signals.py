"""Signals that end a command in the way an interrupt does, so that it cleans up: cursor, temporary files, locks."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_NAMES = ("SIGTERM", "SIGHUP")  # Windows has no SIGHUP


class Stopped(KeyboardInterrupt):
    """A signal asked the command to end.

    Attributes:
        exit_code: the exit code that shells expect after this signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextlib.contextmanager
def interrupting_signals() -> Iterator[None]:
    """Raise :class:`Stopped` inside the context when the process is asked to end.

    A signal that is ignored (``nohup``) or has a handler already keeps its meaning. Only the main thread can set
    handlers; in another thread, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    replaced = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in replaced:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in replaced:
            signal.signal(number, signal.SIG_DFL)


def _stop(number: int, _: FrameType | None) -> None:
    """Handle a signal."""
    raise Stopped(number)
