"""The options of the command ``models``."""

from __future__ import annotations

import argparse

EXAMPLE = "easyedit-lifelong models"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="models to convert now instead of at their first use")
