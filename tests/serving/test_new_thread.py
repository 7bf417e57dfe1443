"""A function in a thread that ends with it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.serving.new_thread import run_in_new_thread


def test_the_result_and_errors_are_those_of_the_function_and_the_thread_has_ended() -> None:
    thread = run_in_new_thread(threading.current_thread)
    assert thread is not threading.current_thread() and not thread.is_alive()

    def fail() -> None:
        raise ModelError("no such model")

    with pytest.raises(ModelError, match="no such model"):
        run_in_new_thread(fail)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt, as in a terminal; parallel test processes ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_the_function_first() -> None:
    ends: list[str] = []

    def work() -> None:
        limit = time.monotonic() + 30
        try:
            os.kill(os.getpid(), signal.SIGINT)  # which the main thread receives
            while time.monotonic() < limit:
                time.sleep(0.01)
        except KeyboardInterrupt:
            ends.append("function")
            raise

    with pytest.raises(KeyboardInterrupt):
        run_in_new_thread(work)
    assert ends == ["function"]
