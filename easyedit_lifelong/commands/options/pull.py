"""The options of the command ``pull``."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = "easyedit-lifelong pull me/my-edits --out my-edits"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("repo", metavar="OWNER/NAME", help="the repository; also OWNER/NAME@REVISION")
    add("--out", required=True, type=Path, metavar="DIR", help="folder for the edits; new or empty")
    add("--revision", metavar="REVISION", help="branch, tag or commit (default: the main branch)")
