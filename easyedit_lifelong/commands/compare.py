"""The command ``compare``: run several methods on the same records, and compare their scores and costs."""

from __future__ import annotations

import argparse

from easyedit_lifelong.commands.compare_session import run_and_compare
from easyedit_lifelong.commands.run_settings import run_data, scoring_settings
from easyedit_lifelong.runs.compared_methods import ComparedMethod, MethodComparison
from easyedit_lifelong.runs.experiment import CONSECUTIVE, Experiment
from easyedit_lifelong.runs.schedule import Schedule


def run(arguments: argparse.Namespace) -> int:
    """Compare the methods.

    Raises:
        LifelongError: an input can't be used.
    """
    edits = arguments.edits
    experiment = Experiment(
        CONSECUTIVE,
        None,
        run_data(arguments, max(edits)),
        overrides={
            "model_name": arguments.model,
            "device": arguments.device,
            "seed": arguments.seed,
            "stats_dir": arguments.stats_dir,
        },
        **scoring_settings(arguments),
        batch_size=arguments.bsz,
        schedule=Schedule.of(None, edits, arguments.eval_sample),
    )
    methods = [ComparedMethod.from_text(text) for text in arguments.methods]
    return run_and_compare(MethodComparison(experiment, methods), arguments)
