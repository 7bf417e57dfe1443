"""The options of the command ``new-method``."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = "easyedit-lifelong new-method MyEdit"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add = parser.add_argument
    add("name", metavar="NAME", help="name of the method (alg_name): letters, digits and single hyphens")
    add("--out", type=Path, metavar="DIR", help="folder for the plugin; new or empty (default: easyedit-lifelong-NAME)")
