"""The settings of a run that the options of several commands give."""

from __future__ import annotations

import argparse
from typing import Any

from easyedit_lifelong.commands.options.run_options import spellings
from easyedit_lifelong.errors import HyperParameterError
from easyedit_lifelong.evaluation.chat_requests import chat_settings
from easyedit_lifelong.evaluation.harness import HarnessTasks
from easyedit_lifelong.runs.experiment import Data
from easyedit_lifelong.runs.schedule import Schedule


def loop_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of an :class:`~easyedit_lifelong.runs.experiment.Experiment` that both loops have.

    Raises:
        HyperParameterError: a number of the schedule is invalid, or an option of tasks is given without tasks.
    """
    return {
        "data": run_data(arguments, arguments.edits),
        **scoring_settings(arguments),
        "schedule": Schedule.of(arguments.eval_every, arguments.eval_at, arguments.eval_sample),
        "trackers": arguments.track,
    }


def run_data(arguments: argparse.Namespace, edits: int | None) -> Data:
    """Return the data that a command's options name.

    Args:
        arguments: the options.
        edits: how many records to use; None for all.
    """
    return Data(
        arguments.data,
        arguments.format,
        edits,
        arguments.edit_with,
        offset=arguments.offset,
        shuffle=arguments.shuffle,
    )


def scoring_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of an :class:`~easyedit_lifelong.runs.experiment.Experiment` that say what is scored.

    Raises:
        HyperParameterError: an option of tasks is given without tasks, or a system message without ``--chat``.
    """
    return {
        "retention": arguments.retention,
        "text": arguments.text,
        "capability": arguments.capability,
        "lm_eval": harness_tasks(arguments),
        "chat": chat_settings(arguments.chat, arguments.system),
        "carry_over": arguments.carry_over,
        "self_consistency": arguments.self_consistency,
        "judge": arguments.judge,
        "task": arguments.task,
        "skip_unusable": arguments.skip_unusable,
    }


def harness_tasks(arguments: argparse.Namespace) -> HarnessTasks | None:
    """Return the tasks of lm-evaluation-harness that the options name; None without ``--lm-eval``.

    Raises:
        HyperParameterError: there are other options of the tasks, but no tasks.
    """
    if not arguments.lm_eval:
        for name in ("lm_eval_path", "lm_eval_limit"):
            if getattr(arguments, name) is not None:
                raise HyperParameterError(f"{spellings(name)[0]}: also give --lm-eval, which names the tasks")
        return None
    return HarnessTasks(arguments.lm_eval, arguments.lm_eval_path, arguments.lm_eval_limit)
