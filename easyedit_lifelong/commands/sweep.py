"""The command ``sweep``: run all combinations of methods, models, data and seeds, and compare them on one page."""

from __future__ import annotations

import argparse
from pathlib import Path

from easyedit_lifelong.commands.sweep_session import PROCESSES, run_sweep
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.runs.sweep.sweep_grid import find_grid


def run(arguments: argparse.Namespace) -> int:
    """Run the cells that aren't finished, and write the page that compares all of them.

    Raises:
        LifelongError: the grid, or an input that it names, can't be used; or ``--out`` holds another sweep.
    """
    if arguments.workers is not None and arguments.launcher != PROCESSES:
        raise RunError(f"--workers: is for local processes; with --launcher {arguments.launcher}, the grid says it")
    file = find_grid(arguments.file)
    out = arguments.out or Path("runs") / file.stem
    return run_sweep(file, out, arguments.launcher, arguments.workers or 1)
