"""The options of the command ``rollback``."""

from __future__ import annotations

import argparse
from pathlib import Path

from easyedit_lifelong.commands.options.option_types import count

EXAMPLE = "easyedit-lifelong rollback my-edits --case 3"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("folder", type=Path, metavar="DIR", help="folder of edits")
    selection = parser.add_mutually_exclusive_group(required=True)
    selection.add_argument(
        "--case",
        action="append",
        default=[],
        metavar="ID",
        help="case id to remove (repeatable; edits of GRACE, NeuralDB, IKE-native and SERAC-native)",
    )
    selection.add_argument(
        "--to-batch", type=count, metavar="N", help="keep the first N batches (methods that edit in batches)"
    )
    add("--prompt", help="with --case: remove only the edit with this prompt, if several edits have the same id")
    add("--out", type=Path, metavar="DIR2", help="write the remaining edits to this folder (default: in place)")
    add("--json", action="store_true", help="print the removed edits as JSON")
