"""The options that name saved edits and their model."""

from __future__ import annotations

import argparse


def add_saved_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for saved edits and their model."""
    add = parser.add_argument
    add("--edits", required=True, metavar="DIR", help="saved edits: a folder, or hub:OWNER/NAME[@REVISION]")
    add("--model", help="model name or folder (default: the model that the edits were made on)")
    dtypes = ("float32", "bfloat16", "float16", "auto")
    add("--dtype", choices=dtypes, help="data type of the weights (default: that of the edits)")
    add("--device", help="device of the model (default: the best available)")
