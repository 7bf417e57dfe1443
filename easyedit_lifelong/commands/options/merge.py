"""The options of the command ``merge``."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = "easyedit-lifelong merge my-edits your-edits --out our-edits"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("folders", type=Path, nargs="+", metavar="DIR", help="folders of edits of the same model")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the merged edits; must not hold edits")
    add("--json", action="store_true", help="print the report as JSON")
