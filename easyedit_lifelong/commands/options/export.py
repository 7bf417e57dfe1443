"""The options of the command ``export``."""

from __future__ import annotations

import argparse
from pathlib import Path

from easyedit_lifelong.commands.options.saved_edits_options import add_saved_arguments

EXAMPLE = "easyedit-lifelong export --edits my-edits --out my-model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_saved_arguments(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the model; new or empty")
