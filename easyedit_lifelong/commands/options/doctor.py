"""The options of the command ``doctor``."""

from __future__ import annotations

import argparse

EXAMPLE = "easyedit-lifelong doctor"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the option of the command."""
    parser.add_argument("--json", action="store_true", help="print the findings as a JSON list")
