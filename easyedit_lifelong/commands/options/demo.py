"""The options of the command ``demo``."""

from __future__ import annotations

import argparse
from pathlib import Path

from easyedit_lifelong.commands.options.option_types import positive_int

EXAMPLE = "easyedit-lifelong demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the number of edits, the folder for the results, and the long form."""
    edits = "facts of the comparison (default 20)"
    parser.add_argument("--edits", type=positive_int, default=20, metavar="N", help=edits)
    out = Path("runs/demo")
    parser.add_argument("--out", type=Path, default=out, metavar="DIR", help=f"folder for the results (default {out})")
    parser.add_argument(
        "--full",
        action="store_true",
        help="the longer demo: GRACE and CoachHook through EasyEdit's BaseEditor, with the shipped settings",
    )
