"""The options of the command ``run``."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = "easyedit-lifelong run grace-zsre-smollm2-135m"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("file", metavar="FILE", help="experiment file, config.yaml of a run, or name of a shipped experiment")
    add("--out", type=Path, metavar="DIR", help="folder for the results (default runs/FILE)")
    add("--resume", action="store_true", help="continue the interrupted run in --out")
