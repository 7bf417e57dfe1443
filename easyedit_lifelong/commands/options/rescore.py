"""The options of the command ``rescore``."""

from __future__ import annotations

import argparse
from pathlib import Path

from easyedit_lifelong.commands.options.option_types import names, positive_int
from easyedit_lifelong.commands.options.run_options import (
    DATA,
    FORMAT_HELP,
    add_carry_over_argument,
    add_lm_eval_arguments,
    add_self_consistency_argument,
    add_skip_argument,
    add_text_arguments,
    spellings,
)

DEFAULT_OUT = "rescored"
"""The folder for the results, in the folder of the run."""

EXAMPLE = "easyedit-lifelong rescore runs/mine --edits 100 --metrics generality,locality"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("folder", metavar="RUN", type=Path, help="folder of a run, finished or interrupted")
    add("--metrics", type=names, default=(), metavar="NAME,...", help="report only these metrics (default: all)")
    add("--edits", type=positive_int, metavar="N", help="load and score only the run's first N edits")
    add(*DATA, metavar="FILE", help="other data with further questions, matched by prompt and target")
    add("--format", help=FORMAT_HELP)
    add(*spellings("eval_sample"), type=positive_int, metavar="N", help="score a fixed random sample of N edits")
    add("--device", help="device (default: the run's)")
    add_text_arguments(parser)
    add_lm_eval_arguments(parser)
    add_carry_over_argument(parser)
    add_self_consistency_argument(parser)
    add_skip_argument(parser)
    add("--out", type=Path, metavar="DIR", help=f"folder for the results (default RUN/{DEFAULT_OUT})")
