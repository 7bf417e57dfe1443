"""Commands show the progress bars of libraries in a terminal, and not in a file or a pipe."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

BAR = "from tqdm.auto import tqdm; list(tqdm(range(3), desc='Loading weights'))"
AFTER_A_COMMAND = f"""
from easyedit_lifelong.commands.main import main
try:
    main(["--version"])
except SystemExit:
    {BAR}
"""


def standard_error(code: str, *, terminal: bool, **variables: str) -> str:
    """Run Python code in a process, and return what it writes to the standard error, a terminal or a pipe."""
    reader, writer = pty.openpty() if terminal else os.pipe()
    if terminal:
        fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))  # rows and columns; 0 of them before
    variables = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"} | variables
    subprocess.run([sys.executable, "-c", code], check=True, stderr=writer, stdout=subprocess.DEVNULL, env=variables)
    os.close(writer)
    written = b""
    with os.fdopen(reader, "rb", buffering=0) as file, contextlib.suppress(OSError):  # a terminal's end is an error
        while part := file.read(1000):
            written += part
    return written.decode()


@pytest.mark.parametrize(
    ("code", "terminal", "variables", "shown"),
    [
        (BAR, False, {}, True),  # what tqdm does itself
        (AFTER_A_COMMAND, False, {}, False),
        (AFTER_A_COMMAND, True, {}, True),
        (AFTER_A_COMMAND, False, {"TQDM_DISABLE": ""}, True),
    ],
    ids=["without a command", "pipe", "terminal", "pipe, the user's setting"],
)
def test_bars_are_shown_in_terminals_only(code: str, terminal: bool, variables: dict[str, str], shown: bool) -> None:
    assert ("Loading weights" in standard_error(code, terminal=terminal, **variables)) == shown
