"""Text for a terminal: nothing in it can control the terminal, and every character can be written."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from typing import NoReturn

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and newline, characters that reorder text, and halves of surrogate pairs."""


def visible(text: str) -> str:
    r"""Return a text with control characters as escapes such as ``\u001b``, which are also valid in JSON.

    Prompts, answers, ids and names of files come from anywhere. Raw control characters in them could clear the screen,
    change the window's title, or show another text than the one that is there.
    """
    return _CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def write_error(message: str) -> None:
    """Write a message of the command line to the standard error."""
    sys.stderr.write(f"easyedit-lifelong: {visible(message)}\n")


def replace_unencodable() -> None:
    """Make the standard streams write a question mark for what their encoding lacks, instead of raising an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def hide_progress_bars_outside_terminals() -> None:
    """Let libraries that use tqdm draw no progress bars where the standard error is a file or a pipe.

    There, each step of a bar would be a line.

    tqdm reads the variable when it is imported, so this must come before the imports of the libraries that use it. A
    value that the user has set stays.
    """
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")


class VisibleFormatter(logging.Formatter):
    """Formats log records without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        return visible(super().format(record))


class VisibleParser(argparse.ArgumentParser):
    """A parser whose error messages repeat the user's words without control characters."""

    def error(self, message: str) -> NoReturn:
        """Print usage and message, and exit with code 2."""
        super().error(visible(message))
