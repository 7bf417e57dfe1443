"""The options of the command ``report``."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = "easyedit-lifelong report runs/mine runs/other"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="a run's folder")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE_OR_DIR",
        help="the page (.html) or its folder (default DIR/report; for several runs, runs/comparison)",
    )
