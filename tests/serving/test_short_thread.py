"""A function in a thread that ends with it."""

from __future__ import annotations

import threading

import pytest

from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.serving.short_thread import in_short_thread


def test_the_result_and_errors_are_those_of_the_function_and_the_thread_has_ended() -> None:
    thread = in_short_thread(threading.current_thread)
    assert thread is not threading.current_thread() and not thread.is_alive()

    def fail() -> None:
        raise ModelError("no such model")

    with pytest.raises(ModelError, match="no such model"):
        in_short_thread(fail)
