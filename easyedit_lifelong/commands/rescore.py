"""The command ``rescore``: score the edits of a run again, without editing."""

from __future__ import annotations

import argparse
from typing import Any

from easyedit_lifelong.commands.options.rescore import DEFAULT_OUT
from easyedit_lifelong.commands.run_session import load_model_for, show_result
from easyedit_lifelong.commands.run_settings import harness_tasks
from easyedit_lifelong.evaluation.answer_count import counted_by
from easyedit_lifelong.plurals import counted
from easyedit_lifelong.reporting.progress import count_progress
from easyedit_lifelong.reporting.terminal import Console
from easyedit_lifelong.runs.experiment import Data
from easyedit_lifelong.runs.rescore import rescore
from easyedit_lifelong.runs.rescoring_plan import plan_rescoring
from easyedit_lifelong.runs.schedule import Schedule


def run(arguments: argparse.Namespace) -> int:
    """Load the run's edits, and score them.

    Raises:
        LifelongError: the run, or an input, can't be used.
    """
    changes: dict[str, Any] = {
        name: value
        for name in ("retention", "text", "capability", "judge", "task")
        if (value := getattr(arguments, name)) is not None
    }
    if (tasks := harness_tasks(arguments)) is not None:
        changes["lm_eval"] = tasks
    if arguments.eval_sample is not None:
        changes["schedule"] = Schedule.of(None, (), arguments.eval_sample)
    for name in ("skip_unusable", "carry_over", "self_consistency"):
        if getattr(arguments, name):
            changes[name] = True
    data = None if arguments.data is None else Data(arguments.data, arguments.format)
    out = arguments.folder / DEFAULT_OUT if arguments.out is None else arguments.out
    rescoring = plan_rescoring(
        arguments.folder,
        edits=arguments.edits,
        data=data,
        metrics=arguments.metrics,
        out=out,
        device=arguments.device,
        **changes,
    )
    console = Console()
    edits, requests = rescoring.journal[-1]["n_edits"], len(rescoring.inputs.requests)
    console.print(
        f"{rescoring.plan.method.name} on {rescoring.plan.hparams.model_name}: {counted(edits, 'edit')} of "
        f"{arguments.folder}, {counted(requests, 'record')} of {rescoring.inputs.name}",
        highlight=False,
    )
    model, tokenizer = load_model_for(rescoring.plan.hparams)
    with count_progress(console, "scoring") as progress, counted_by(progress):
        result = rescore(rescoring, model, tokenizer)
    show_result(console, result, out)
    return 0
