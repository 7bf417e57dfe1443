"""Options that several verbs share, and the settings of a run that they give."""

from __future__ import annotations

import argparse
from typing import Any

from easyedit_lifelong.commands.option_types import positive_int, positive_ints
from easyedit_lifelong.evaluation.tasks import TASKS
from easyedit_lifelong.runs.experiment import EVAL_EVERY, Data
from easyedit_lifelong.runs.schedule import Schedule

DATA = ("--data", "--ds-dir", "--ds_dir")
"""The option that names the data, and its aliases."""

RECORDS = ("--edits", "--sample", "--limit")
"""The option that limits the number of records, and its aliases."""


def spellings(name: str) -> tuple[str, ...]:
    """Return an option with dashes and with underscores, as the scripts of CoachHook's authors spell it."""
    return tuple(dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}")))


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that replace the model and the device of a hyperparameter file."""
    parser.add_argument("--model", help="model name or folder, instead of the hyperparameter file's")
    parser.add_argument("--device", help="device, instead of the hyperparameter file's")


def add_loop_arguments(parser: argparse.ArgumentParser, loop: str, unit: str) -> None:
    """Add the options of both loops.

    Args:
        parser: the verb's parser.
        loop: the loop.
        unit: what its ``--eval-every`` counts.
    """
    add = parser.add_argument
    add(
        *spellings("eval_every"),
        type=positive_int,
        metavar="K",
        help=f"score all past edits every K {unit} (default {EVAL_EVERY[loop]}, or not if --eval-at is given)",
    )
    add(
        *spellings("eval_at"),
        type=positive_ints,
        default=(),
        metavar="N,N,...",
        help="score them after so many edits, such as 1,10,100,1000",
    )
    add(
        *spellings("eval_sample"),
        type=positive_int,
        metavar="N",
        help="score a fixed random sample of N past edits where there are more",
    )
    add(
        *spellings("edit_with"),
        type=positive_int,
        default=0,
        metavar="N",
        help="make N rephrasings of each fact edits of their own, and hold the others out",
    )
    add("--retention", metavar="FILE", help="held-out facts, such as a JSON list of {prompt, answer}")
    add("--text", metavar="FILE", help="held-out text, for its perplexity before and after")
    add("--task", choices=tuple(TASKS), help="what the data ask (default: as their format)")
    add("--resume", action="store_true", help="continue the interrupted run in --out")
    add("--track", action="append", default=[], metavar="NAME", help="also report to this tracker (repeatable)")


def loop_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of an :class:`~easyedit_lifelong.runs.experiment.Experiment` that both loops read alike.

    Raises:
        HyperParameterError: a number of the schedule makes no sense.
    """
    return {
        "data": Data(arguments.data, arguments.format, arguments.edits, arguments.edit_with),
        "retention": arguments.retention,
        "text": arguments.text,
        "task": arguments.task,
        "schedule": Schedule.of(arguments.eval_every, arguments.eval_at, arguments.eval_sample),
        "trackers": arguments.track,
    }
