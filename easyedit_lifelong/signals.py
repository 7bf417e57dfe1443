"""Signals that end a command in the way an interrupt does, so that it cleans up: cursor, temporary files, locks."""

from __future__ import annotations

import _thread
import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_NAMES = ("SIGTERM", "SIGHUP")  # Windows has no SIGHUP

_SECONDS_UNTIL_REPEATED = 0.05
"""After this time, a signal that came during a finalizer is raised again; the finalizer has ended then."""


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

    Python ignores exceptions that a finalizer raises. A signal that comes during one, while a model is freed, for
    example, would be lost, so it is raised again shortly after that.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    replaced = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in replaced:
        signal.signal(number, _stop)
    hook = sys.unraisablehook
    sys.unraisablehook = _hook_that_repeats_signals(hook)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number in replaced:
            signal.signal(number, signal.SIG_DFL)


def ignore_interrupts() -> None:
    """Ignore Ctrl-C from now on, in a process that is about to end. Only the main thread can do that."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _stop(number: int, _: FrameType | None) -> None:
    """Handle a signal."""
    raise Stopped(number)


def _hook_that_repeats_signals(previous: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a hook for exceptions that Python ignores: it raises signals again.

    Args:
        previous: the hook for other exceptions.
    """

    def hook(unraisable: Any) -> None:
        error = unraisable.exc_value
        if not isinstance(error, KeyboardInterrupt):
            previous(unraisable)
            return
        number = error.exit_code - 128 if isinstance(error, Stopped) else signal.SIGINT
        timer = threading.Timer(_SECONDS_UNTIL_REPEATED, _send_to_main_thread, (number,))
        timer.daemon = True
        timer.start()

    return hook


def _send_to_main_thread(number: int) -> None:
    """Send a signal to the main thread of this process, also if it waits."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:  # Windows
        _thread.interrupt_main(signal.Signals(number))
