"""Commands in messages, written so that the shell runs the programs of this installation."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

_COMMAND = re.compile(
    r"(?<![\w./\\-])(?:python -m pip(?= install )|pip(?= install )|python(?= -m )|easyedit-lifelong(?= [a-z]))"
)
"""The beginning of a command; not a part of a path or of another name."""

_MAIN = Path(__file__).parents[1] / "__main__.py"
"""What ``python -m easyedit_lifelong`` runs."""

_RUN_SH_MARK = ".easyedit-lifelong"
"""The file that ``run.sh`` leaves in the virtual environment that it makes beside itself."""


def runnable(text: str) -> str:
    """Return a message in which commands have the path of their program, if the shell doesn't find it by its name.

    The shell doesn't find the programs of a virtual environment that isn't activated, and ``pip`` would be that of
    another Python. In the folder of ``run.sh``, ``sh run.sh`` stands for the program of its environment.

    Args:
        text: a message with commands that begin with ``pip install``, ``python -m`` or ``easyedit-lifelong``.
    """
    return _COMMAND.sub(lambda match: _with_path(match[0]), text)


def _with_path(command: str) -> str:
    """Return the beginning of a command so that it runs a program of this installation."""
    if command == "easyedit-lifelong":
        program = Path(sys.argv[0])
        if program.name == command and not _is_found(program):
            return "sh run.sh" if _is_run_by_run_sh(program) else shlex.quote(str(program))
        if program == _MAIN and sys.executable and not _is_found(Path(sys.executable).with_name(command)):
            return f"{shlex.quote(sys.executable)} -m {_MAIN.parent.name}"
        return command  # also where Python code called the command
    name, _, rest = command.partition(" ")
    if not sys.executable or _is_found(Path(sys.executable).with_name(name)):  # it is empty where it isn't known
        return command
    return f"{shlex.quote(sys.executable)} {rest or '-m pip'}" if command != "python" else shlex.quote(sys.executable)


def _is_run_by_run_sh(program: Path) -> bool:
    """Return whether ``sh run.sh`` in the current folder runs a program."""
    environment = program.absolute().parent.parent
    script = environment.parent / "run.sh"
    try:
        return (environment / _RUN_SH_MARK).is_file() and script.is_file() and script.parent.samefile(Path.cwd())
    except OSError:  # the current folder was deleted
        return False


def _is_found(program: Path) -> bool:
    """Return whether the shell finds this program by its name."""
    found = shutil.which(program.name)
    try:
        return found is not None and os.path.samefile(Path(found).parent, program.parent)
    except OSError:  # the program's folder was deleted
        return False
