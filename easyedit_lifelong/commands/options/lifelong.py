"""The options of the command ``lifelong``."""

from __future__ import annotations

import argparse
from pathlib import Path

from easyedit_lifelong.commands.options.option_types import positive_int
from easyedit_lifelong.commands.options.run_options import (
    DATA,
    RECORDS,
    add_eos_argument,
    add_joiner_argument,
    add_loop_arguments,
    add_model_arguments,
    add_seed_argument,
)
from easyedit_lifelong.runs.experiment import LIFELONG

EXAMPLE = "easyedit-lifelong lifelong --hparams GRACE/smollm2-135m --data facts.json --out runs/mine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("--hparams", required=True, help="hyperparameter file, or a shipped name such as GRACE/smollm2-135m")
    add(*DATA, required=True, metavar="FILE", help="dataset file, or hub:OWNER/NAME[[:CONFIG]:SPLIT]")
    add("--format", default="json", help="json, zsre or another that `plugins` lists, or a YAML file (default json)")
    add(*RECORDS, type=positive_int, metavar="N", help="use only the first N records")
    add("--out", required=True, type=Path, metavar="DIR", help="folder for the results; must not hold another run")
    add("--only-errors", action="store_true", help="edit only facts that the model answers wrong")
    add_joiner_argument(parser)
    add_eos_argument(parser)
    add_model_arguments(parser)
    add_seed_argument(parser)
    add_loop_arguments(parser, LIFELONG, "edits")
