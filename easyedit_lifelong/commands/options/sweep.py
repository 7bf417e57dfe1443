"""The options of the command ``sweep``."""

from __future__ import annotations

import argparse
from pathlib import Path

from easyedit_lifelong.commands.options.option_types import positive_int

LAUNCHERS = PROCESSES, RAY, SLURM = "local", "ray", "slurm"
"""What can run the cells of a sweep."""

EXAMPLE = "easyedit-lifelong sweep three-methods-smollm2-135m --workers 2 --out runs/three-methods"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("file", metavar="GRID", help="grid file, or name of a shipped grid (docs/sweep.md has its keys)")
    add("--out", type=Path, metavar="DIR", help="folder of the sweep (default runs/GRID); a sweep in it is continued")
    add("--launcher", choices=LAUNCHERS, default=PROCESSES, help="what runs the cells (default: local processes)")
    add("--workers", type=positive_int, metavar="N", help="local: cells that run at a time (default 1)")
