"""``run``: do the run of an experiment file."""

from __future__ import annotations

import argparse
from pathlib import Path

from easyedit_lifelong.commands.run_session import file_session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the file and where its results go."""
    add = parser.add_argument
    add("file", metavar="FILE", help="experiment file, config.yaml of a run, or a shipped name")
    add("--out", type=Path, metavar="DIR", help="folder for the results (default runs/FILE)")
    add("--resume", action="store_true", help="continue the interrupted run there")


def run(arguments: argparse.Namespace) -> int:
    """Run the experiment.

    Raises:
        LifelongError: the file, or something that it names, cannot be used.
    """
    file_session(arguments.file, arguments.out, arguments.resume)
    return 0
