"""The options of the command ``train``."""

from __future__ import annotations

import argparse
from pathlib import Path

from easyedit_lifelong.commands.options.option_types import count, positive_float, positive_int
from easyedit_lifelong.commands.options.run_options import DATA, FORMAT_HELP, add_model_arguments, add_skip_argument

EXAMPLE = "easyedit-lifelong train --method MEND --data facts.json --minutes 40 --out runs/mend"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("--method", default="MEND", metavar="M", help="the method to train (default MEND)")
    add("--hparams", metavar="FILE", help="hyperparameter file or shipped name (default: the method's for the model)")
    add(*DATA, required=True, metavar="FILE", help="training records: a file, or hub:OWNER/NAME[[:CONFIG]:SPLIT]")
    add("--format", help=FORMAT_HELP)
    add("--offset", type=count, default=0, metavar="N", help="skip the first N records; --limit counts from there")
    add("--limit", type=positive_int, metavar="N", help="use only the first N records")
    add("--out", type=Path, metavar="DIR", help="folder of the trained method (default: `archive` of the file)")
    add("--edits", type=positive_int, metavar="N", help="number of training edits (default: max_iters)")
    add("--minutes", type=positive_float, metavar="M", help="stop after M minutes")
    add_skip_argument(parser, "read")
    add_model_arguments(parser)
    add("--resume", action="store_true", help="continue the interrupted training in --out")
