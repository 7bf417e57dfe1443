"""The options of the command ``compare``."""

from __future__ import annotations

import argparse
from pathlib import Path

from easyedit_lifelong.commands.options.option_types import count, names, positive_int, positive_ints
from easyedit_lifelong.commands.options.run_options import (
    DATA,
    FORMAT_HELP,
    add_scoring_arguments,
    spellings,
)
from easyedit_lifelong.data.samples import COUNTERFACT

_EDITS = (1, 10, 100)

EXAMPLE = "easyedit-lifelong compare --methods GRACE,MEMIT-native,AlphaEdit --edits 1,10,100 --out runs/compared"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add(
        "--methods",
        required=True,
        type=names,
        metavar="[LABEL=]METHOD,...",
        help="methods; each a name such as GRACE, or a hyperparameter file, with a label if one occurs twice",
    )
    add(*DATA, default=str(COUNTERFACT), metavar="FILE", help="dataset file (default: sample facts)")
    add("--format", help=FORMAT_HELP)
    add(
        "--edits",
        type=positive_ints,
        default=_EDITS,
        metavar="N,N,...",
        help="numbers of edits after which all are scored; the largest is the number of records (default 1,10,100)",
    )
    add("--bsz", type=positive_int, metavar="B", help="edits per batch for all methods (default: each method's own)")
    add("--model", help="model name or folder (default smollm2-135m, or the hyperparameter files')")
    add("--device", help="device (default: the hyperparameter files')")
    add("--seed", type=count, metavar="N", help="seed for all methods (default: the hyperparameter files')")
    add(*spellings("stats_dir"), metavar="DIR", help="folder of second-moment statistics")
    add_scoring_arguments(parser)
    add("--out", required=True, type=Path, metavar="DIR", help="folder for the results, with a folder for each method")
    add("--resume", action="store_true", help="require that --out holds this comparison, and continue it")
