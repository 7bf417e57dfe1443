"""Call a function in a forked process, which may be killed."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable

ERROR = 99
"""The exit code after an error that the function did not handle."""


def exit_code_in_fork(
    function: Callable[[], int], *, quiet: bool = False, kill_after: float | None = None
) -> int | None:
    """Call a function in a forked process, which exits with the code that the function returns.

    Args:
        function: the function.
        quiet: drop what it writes to the standard output.
        kill_after: kill the process after this many seconds.

    Returns:
        The exit code; None if the process was killed.
    """
    child = os.fork()
    if child == 0:
        code = ERROR
        try:
            if quiet:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            code = function()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return None
    return os.waitstatus_to_exitcode(status)
