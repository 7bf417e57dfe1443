"""The command ``lifelong``: edit a model with one fact after another."""

from __future__ import annotations

import argparse

from easyedit_lifelong.commands.run_session import run_and_report
from easyedit_lifelong.commands.run_settings import loop_settings
from easyedit_lifelong.runs.experiment import LIFELONG, Experiment


def run(arguments: argparse.Namespace) -> int:
    """Edit the model with one fact after another, and score the edits.

    Raises:
        LifelongError: an input can't be used.
    """
    experiment = Experiment(
        LIFELONG,
        arguments.hparams,
        overrides={
            "model_name": arguments.model,
            "device": arguments.device,
            "joiner": arguments.joiner,
            "eos": arguments.eos,
            "seed": arguments.seed,
        },
        only_errors=arguments.only_errors,
        **loop_settings(arguments),
    )
    run_and_report(experiment, arguments)
    return 0
