"""The command ``sweep``: run all combinations of methods, models, data and seeds, and compare them on one page."""

from __future__ import annotations

import argparse
from pathlib import Path

from easyedit_lifelong.commands.sweep_session import PROCESSES, check_installed, run_sweep
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.runs.sweep.sweep_grid import find_grid, read_grid
from easyedit_lifelong.runs.sweep.sweep_plan import plan_sweep


def run(arguments: argparse.Namespace) -> int:
    """Run the cells that aren't finished, and write the page that compares all of them.

    Raises:
        LifelongError: the grid, or an input that it names, can't be used; or ``--out`` holds another sweep.
    """
    if arguments.workers is not None and arguments.launcher != PROCESSES:
        raise RunError(f"--workers: is for local processes; with --launcher {arguments.launcher}, the grid says it")
    file = find_grid(arguments.file)
    check_installed(arguments.launcher)
    grid = read_grid(file)
    plan = plan_sweep(grid, arguments.out or Path("runs") / file.stem)
    arguments.plans = [cell.run.plan for cell in plan.cells]  # which an interruption's message needs
    return run_sweep(grid, plan, arguments.launcher, arguments.workers or 1)
