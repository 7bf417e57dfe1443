"""``pull``: fetch saved edits from the Hugging Face Hub into a folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from easyedit_lifelong.commands.saved_edits import Saved, amount_of
from easyedit_lifelong.edits.edits_hub import copy_edits
from easyedit_lifelong.reporting.console_tables import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the repository and the folder."""
    add = parser.add_argument
    add("repo", metavar="OWNER/NAME", help="the repository (OWNER/NAME@REVISION will do, too)")
    add("--out", required=True, type=Path, metavar="DIR", help="folder for the edits; new or empty")
    add("--revision", metavar="REVISION", help="branch, tag or commit (default: the main branch)")
    parser.set_defaults(writes_at_end=True)


def run(arguments: argparse.Namespace) -> int:
    """Fetch the edits and check them.

    Raises:
        LifelongError: the repository holds no edits, or the folder cannot be used.
    """
    saved = Saved.of(str(copy_edits(arguments.repo, arguments.out, arguments.revision)))
    say(Console(), f"{arguments.out}: {amount_of(len(saved.edits))} of {saved.made_on}, checked.")
    return 0
