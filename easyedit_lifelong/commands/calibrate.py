"""The command ``calibrate``: choose layers, distance, radius and relation gate for one model."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from easyedit_lifelong.commands.option_types import positive_int, share
from easyedit_lifelong.commands.run_options import DATA, FORMAT_HELP, add_model_arguments, add_skip_argument

EXAMPLE = "easyedit-lifelong calibrate --hparams GRACE/smollm2-135m-subject --model gpt2-xl --data held-out.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("--hparams", required=True, help="hyperparameter file to start from, such as GRACE/smollm2-135m-subject")
    add(*DATA, required=True, metavar="FILE", help="held-out records: a file, or hub:OWNER/NAME[[:CONFIG]:SPLIT]")
    add("--format", help=FORMAT_HELP)
    records = "use only the first N records of --data (default 500)"
    add("--limit", "--sample", type=positive_int, default=500, metavar="N", help=records)
    add("--edits", type=positive_int, default=50, metavar="N", help="edit the first N of these records (default 50)")
    add("--layers", metavar="L", help="candidate key layers: numbers of blocks, such as 1-4,6, or paths of modules")
    add("--answer-layers", metavar="L", help="candidate answer layers: later blocks, or modules")
    add("--tries", type=positive_int, default=2, metavar="N", help="make test edits at the N best of these (default 2)")
    rate = "allowed share of unrelated prompts that match a key (default: the hyperparameter file's)"
    add("--false-fire-rate", type=share, metavar="R", help=rate)
    generality = "least generality with the gate, as a share of the generality without it (default 0.9)"
    add("--generality", type=share, default=0.9, metavar="G", help=generality)
    folder = Path("runs/calibration")
    add("--out", type=Path, default=folder, metavar="DIR", help=f"folder for the results (default {folder})")
    add_model_arguments(parser)
    add_skip_argument(parser)
    add("--resume", action="store_true", help="continue the interrupted calibration in --out")


def run(arguments: argparse.Namespace) -> int:
    """Run the calibration."""
    from easyedit_lifelong.commands.calibrate_session import calibrate_session

    calibrate_session(arguments, _command(arguments))
    return 0


def _command(arguments: argparse.Namespace) -> str:
    """Return the command line with these arguments, without those that have their default."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = ["easyedit-lifelong", "calibrate"]
    for name, default in vars(parser.parse_args(["--hparams=", "--data="])).items():
        value = getattr(arguments, name)
        if value != default:
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return shlex.join(words)
