"""The options of the command ``edit``."""

from __future__ import annotations

import argparse
from pathlib import Path

from easyedit_lifelong.commands.options.option_types import positive_int
from easyedit_lifelong.commands.options.run_options import (
    DATA,
    FORMAT_HELP,
    add_chat_arguments,
    add_eos_argument,
    add_joiner_argument,
    add_model_arguments,
    add_skip_argument,
)

EXAMPLE = (
    'easyedit-lifelong edit --hparams GRACE/smollm2-135m --prompt "The capital of France is"'
    " --target Lyon --out my-edits"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("--hparams", required=True, help="hyperparameter file, or a shipped name such as GRACE/smollm2-135m")
    add("--prompt", action="append", default=[], metavar="P", help="prompt to edit (repeatable)")
    add("--target", action="append", default=[], metavar="T", help="new answer, one for each --prompt, in order")
    add("--subject", action="append", default=[], metavar="S", help="subject, as spelled in the prompt (repeatable)")
    add(*DATA, metavar="FILE", help="dataset file instead of --prompt, or hub:OWNER/NAME[[:CONFIG]:SPLIT]")
    add("--format", help=FORMAT_HELP)
    add("--limit", "--sample", type=positive_int, metavar="N", help="use only the first N records of --data")
    add("--edits", metavar="DIR", help="saved edits to add to (or hub:OWNER/NAME[@REVISION])")
    add("--out", required=True, type=Path, metavar="DIR", help="folder for the edits; can be that of --edits")
    add_eos_argument(parser)
    add_joiner_argument(parser)
    add_chat_arguments(parser)
    add_skip_argument(parser, "read")
    add_model_arguments(parser)
