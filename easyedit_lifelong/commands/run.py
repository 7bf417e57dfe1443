"""The command ``run``: run an experiment file."""

from __future__ import annotations

import argparse
from pathlib import Path

from easyedit_lifelong.commands.run_session import run_experiment_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("file", metavar="FILE", help="experiment file, config.yaml of a run, or name of a shipped experiment")
    add("--out", type=Path, metavar="DIR", help="folder for the results (default runs/FILE)")
    add("--resume", action="store_true", help="continue the interrupted run in --out")


def run(arguments: argparse.Namespace) -> int:
    """Run the experiment.

    Raises:
        LifelongError: the file, or an input that it names, can't be used.
    """
    run_experiment_file(arguments.file, arguments.out, arguments.resume)
    return 0
