"""``lifelong``: edit a model with one fact after the other."""

from __future__ import annotations

import argparse
from pathlib import Path

from easyedit_lifelong.commands.option_types import positive_int
from easyedit_lifelong.commands.run_options import (
    DATA,
    RECORDS,
    add_loop_arguments,
    add_model_arguments,
    loop_settings,
)
from easyedit_lifelong.commands.run_session import session
from easyedit_lifelong.runs.experiment import LIFELONG, Experiment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the lifelong loop."""
    add = parser.add_argument
    add("--hparams", required=True, help="hyperparameter file, or a shipped name such as GRACE/smollm2-135m")
    add(*DATA, required=True, metavar="FILE", help="dataset file, or hub:OWNER/NAME[[:CONFIG]:SPLIT]")
    add("--format", default="json", help="zsre, counterfact, json, or another of `plugins` (default json)")
    add(*RECORDS, type=positive_int, metavar="N", help="only the first N records")
    add("--out", required=True, type=Path, metavar="DIR", help="folder for the results; must not hold another run")
    add("--only-errors", action="store_true", help="edit only where the model is wrong")
    add_model_arguments(parser)
    add_loop_arguments(parser, LIFELONG, "edits")


def run(arguments: argparse.Namespace) -> int:
    """Run the loop as the arguments say.

    Raises:
        LifelongError: an input cannot be used.
    """
    experiment = Experiment(
        LIFELONG,
        arguments.hparams,
        overrides={"model_name": arguments.model, "device": arguments.device},
        only_errors=arguments.only_errors,
        **loop_settings(arguments),
    )
    session(experiment, arguments.out, arguments.resume)
    return 0
