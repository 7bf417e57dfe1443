"""The options of the command ``scope``."""

from __future__ import annotations

import argparse
from pathlib import Path

from easyedit_lifelong.commands.options.consecutive import add_script_arguments
from easyedit_lifelong.commands.options.run_options import add_skip_argument

EXAMPLE = "easyedit-lifelong scope --edits 20"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_script_arguments(parser)
    add_skip_argument(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/scope"),
        metavar="DIR",
        help="folder for the results (default runs/scope)",
    )
