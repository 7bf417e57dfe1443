"""The option ``--print-completion``: a script with which a shell completes commands, options and files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SHELLS = ("bash", "zsh", "fish", "tcsh", "powershell")


class PrintCompletion(argparse.Action):
    """Prints the script for a shell, and exits.

    Args:
        build: returns the parser of the command line with all commands.
        **options: of the option itself, as for every action.
    """

    def __init__(self, *, build: Callable[[], argparse.ArgumentParser], **options: Any) -> None:
        super().__init__(**options, choices=SHELLS)
        self.build = build

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        """Print the script for the shell that was given."""
        sys.stdout.write(completion_script(self.build(), values) + "\n")
        parser.exit()


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return a script that completes a command line.

    Args:
        parser: the parser of the command line.
        shell: one of :data:`SHELLS`.
    """
    import shtab  # only this option needs it

    _complete_paths(parser, shtab.FILE, shtab.DIRECTORY)
    return shtab.complete(parser, shell)


def _complete_paths(parser: argparse.ArgumentParser, file: Any, folder: Any) -> None:
    """Make the arguments of a parser, and of its commands, that take files or folders complete these.

    Args:
        parser: the parser.
        file: what shtab calls the completion of files.
        folder: what shtab calls the completion of folders.
    """
    for action in parser._actions:
        metavar = action.metavar if isinstance(action.metavar, str) else ""
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                _complete_paths(subparser, file, folder)
        elif "DIR" in metavar:
            action.complete = folder  # type: ignore[attr-defined]
        elif action.type is Path or "FILE" in metavar:
            action.complete = file  # type: ignore[attr-defined]
