"""The options of the command ``plugins``."""

from __future__ import annotations

import argparse

EXAMPLE = "easyedit-lifelong plugins"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--methods", action="store_true", help="print what each editing method can do")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
