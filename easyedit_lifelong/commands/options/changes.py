"""The options of the command ``changes``."""

from __future__ import annotations

import argparse
from pathlib import Path

from easyedit_lifelong.commands.options.saved_edits_options import add_saved_arguments

EXAMPLE = 'easyedit-lifelong changes --edits my-edits --prompt "The capital of France is"'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_saved_arguments(parser)
    prompt_help = (
        "a prompt, such as a paraphrase or a neighbour (repeatable; default: the prompts of the first 3 edits)"
    )
    parser.add_argument("--prompt", action="append", metavar="TEXT", help=prompt_help)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/changes"), metavar="DIR", help="results (default runs/changes)"
    )
