"""The options of the command ``calibrate``."""

from __future__ import annotations

import argparse
from pathlib import Path

from easyedit_lifelong.commands.options.option_types import count, positive_int, share
from easyedit_lifelong.commands.options.run_options import DATA, FORMAT_HELP, add_model_arguments, add_skip_argument

EXAMPLE = "easyedit-lifelong calibrate --method CoachHook --model gpt2-xl --data held-out.json --max-seconds 3600"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("--method", metavar="NAME", help="editing method, such as CoachHook; with --model, in place of --hparams")
    add("--hparams", help="hyperparameter file to start from, such as GRACE/smollm2-135m-subject")
    add(*DATA, required=True, metavar="FILE", help="held-out records: a file, or hub:OWNER/NAME[[:CONFIG]:SPLIT]")
    add("--format", help=FORMAT_HELP)
    records = "read only the first N records of --data (default all; GRACE by subjects: 500)"
    add("--limit", "--sample", type=positive_int, metavar="N", help=records)
    add("--offset", type=count, metavar="N", help="skip the first N records; a search then edits the next ones")
    edits = (
        "number of records to edit: in each trial of a search, the last N (default 20); GRACE by subjects: the first N"
    )
    add("--edits", type=positive_int, metavar="N", help=f"{edits} (default 50)")
    add("--layers", metavar="L", help="candidate layers: numbers of blocks, such as 1-4,6; GRACE: or paths of modules")
    search = parser.add_argument_group("staged search (methods other than GRACE by subjects)")
    seconds = "most seconds of all trials together (default 1800)"
    search.add_argument("--max-seconds", type=positive_int, default=1800, metavar="S", help=seconds)
    search.add_argument("--max-trials", type=positive_int, metavar="N", help="most trials (default no limit)")
    subjects = parser.add_argument_group("GRACE by subjects").add_argument
    subjects("--answer-layers", metavar="L", help="candidate answer layers: later blocks, or modules")
    subjects("--tries", type=positive_int, default=2, metavar="N", help="edit at the N best of these (default 2)")
    rate = "allowed share of unrelated prompts that match a key (default: the hyperparameter file's)"
    add("--false-fire-rate", type=share, metavar="R", help=rate)
    generality = "least generality with the gate, as a share of the generality without it (default 0.9)"
    subjects("--generality", type=share, default=0.9, metavar="G", help=generality)
    folder = Path("runs/calibration")
    add("--out", type=Path, default=folder, metavar="DIR", help=f"folder for the results (default {folder})")
    add_model_arguments(parser)
    add_skip_argument(parser, "read")
    add("--resume", action="store_true", help="continue the interrupted calibration in --out")
