"""The options of the command ``consecutive``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from easyedit_lifelong.commands.options.option_types import positive_float, positive_int
from easyedit_lifelong.commands.options.run_options import (
    DATA,
    FORMAT_HELP,
    RECORDS,
    add_eos_argument,
    add_joiner_argument,
    add_loop_arguments,
    add_seed_argument,
    spellings,
)
from easyedit_lifelong.data.samples import COUNTERFACT
from easyedit_lifelong.runs.experiment import CONSECUTIVE

EXAMPLE = "easyedit-lifelong consecutive --method AlphaEdit --data facts.json --edits 100 --bsz 10 --out runs/mine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the consecutive-batch loop."""
    add_script_arguments(parser)
    add = parser.add_argument
    add(
        "--method",
        help="editing method, also one of EasyEdit's own such as MEMIT or EasyEdit/AlphaEdit (default CoachHook)",
    )
    add(
        "--consecutive",
        type=int,
        choices=(0, 1),
        nargs="?",
        const=1,
        default=1,
        help="1: keep each batch (default); 0: roll each batch back before the next (the authors' default)",
    )
    add("--out", type=Path, metavar="DIR", help="folder for the results (default runs/consecutive/METHOD-MODEL-DATA)")
    add_loop_arguments(parser, CONSECUTIVE, "batches")


def add_script_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the authors' scripts, with their names, with dashes or underscores."""

    def add(name: str, **options: Any) -> None:
        parser.add_argument(*spellings(name), **options)

    add("hparams", help="hyperparameter file or shipped name (default: the method's for the model)")
    add("model", help="model name or folder (default: the hyperparameter file's, else smollm2-135m)")
    add("device", help="device (default: the hyperparameter file's)")
    parser.add_argument(*DATA, default=str(COUNTERFACT), metavar="FILE", help="dataset file (default: sample facts)")
    add("format", help=FORMAT_HELP)
    parser.add_argument(
        *RECORDS, type=positive_int, default=100, metavar="N", help="use only the first N records (default 100)"
    )
    add("bsz", type=positive_int, metavar="B", help="edits per batch")
    add("stats_dir", metavar="DIR", help="folder of second-moment statistics")
    add("mom2_update_weight", type=positive_float, metavar="W", help="weight of the second moments")
    add("alpha_z", type=float, metavar="A", help="initial alpha: the score above which a hook acts")
    add("num_layers", type=positive_int, metavar="L", help="edit only the last L of the layers")
    add_joiner_argument(parser)
    add_eos_argument(parser)
    add_seed_argument(parser)
    add("wohk", type=int, choices=(0, 1), nargs="?", const=1, help="1: without hook layers")
