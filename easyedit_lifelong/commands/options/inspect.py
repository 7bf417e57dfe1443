"""The options of the command ``inspect``."""

from __future__ import annotations

import argparse
from pathlib import Path

from easyedit_lifelong.commands.options.option_types import count, positive_float
from easyedit_lifelong.methods.base import NEARLY

EXAMPLE = "easyedit-lifelong inspect my-edits"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("folder", type=Path, metavar="DIR", help="folder of edits")
    add(
        "--nearly",
        type=positive_float,
        default=NEARLY,
        metavar="X",
        help=f"list pairs of keys whose distance is at most X times the sum of their radii (default {NEARLY})",
    )
    add("--limit", type=count, default=50, metavar="N", help="show the last N edits (default 50; 0: all)")
    add("--json", action="store_true", help="print everything as JSON")
