"""Run a function in a new thread, and end the thread.

OpenMP, which torch uses on a CPU, keeps a pool of threads for every thread that has run a parallel operation, until
that thread ends. While there are more OpenMP threads than cores, each of them waits for work by sleeping and not by
spinning, so that every operation takes longer: a batch of four answers of SmolLM2-135M took 1.35 s instead of 1.05 s on
two cores. So the thread that loads a model must end before the engine's thread runs the model.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

Result = TypeVar("Result")


def run_in_new_thread(function: Callable[[], Result]) -> Result:
    """Return the result of a function that runs in a new thread; an error of it is raised here.

    Raises:
        KeyboardInterrupt: the user interrupted the process. It is raised in the thread, too, and here when that has
            ended: a process that ends while a thread is inside torch is aborted.
    """
    result: Future[Result] = Future()

    def run() -> None:
        try:
            result.set_result(function())
        except BaseException as error:
            if not result.done():  # an interrupt can come after the result
                result.set_exception(error)

    thread = threading.Thread(target=run, name="easyedit-lifelong-load", daemon=True)
    try:
        thread.start()
        thread.join()
    except KeyboardInterrupt:
        if thread.ident is not None:  # it has begun
            interrupt = ctypes.py_object(KeyboardInterrupt)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), interrupt)
            wait([result])
        raise
    return result.result()
