"""Execute a run from the command line or an experiment file: plan, read the data, load the model, edit, print."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from easyedit_lifelong.models.load import load_from_hparams
from easyedit_lifelong.plurals import counted
from easyedit_lifelong.reporting.console_tables import closing_lines, harness_table, score_table
from easyedit_lifelong.reporting.progress import edit_progress
from easyedit_lifelong.reporting.terminal import Console
from easyedit_lifelong.runs.execute import execute
from easyedit_lifelong.runs.experiment import Experiment
from easyedit_lifelong.runs.inputs import read_inputs
from easyedit_lifelong.runs.plan import make_plan
from easyedit_lifelong.runs.run_folder import LM_EVAL
from easyedit_lifelong.runs.state import RunResult


def run_and_report(experiment: Experiment, arguments: argparse.Namespace) -> RunResult:
    """Execute a run and print its results; check settings and data before the model is loaded.

    Args:
        experiment: the settings of the run.
        arguments: the command's options: the folder for the results is ``out``, and ``resume`` says whether to continue
            the interrupted run there. They get ``plans``, which an interruption's message needs.

    Raises:
        LifelongError: a setting, the data or the model can't be used.
    """
    console = Console()
    plan = make_plan(experiment, arguments.out, arguments.resume)
    arguments.plans = [plan]
    inputs = read_inputs(experiment, plan.seed)
    hparams, n_edits = plan.hparams, len(inputs.requests)
    batches = f", {experiment.protocol}, batches of {plan.batch_size}" if plan.batched else ""
    console.print(
        f"{hparams.alg_name} on {hparams.model_name}: {counted(n_edits, 'edit')} from {inputs.name}{batches}",
        highlight=False,
    )
    model, tokenizer = load_model_for(hparams)
    with edit_progress(console, n_edits) as progress:
        result = execute(plan, inputs, model, tokenizer, progress)
    show_result(console, result, arguments.out)
    return result


def load_model_for(hparams: Any) -> tuple[Any, Any]:
    """Return the model and tokenizer of hyperparameters; load them unless ``model_name`` is a loaded pair.

    Raises:
        ModelError: there is no such model, or it is of a kind that can't be edited.
        DeviceError: the device doesn't exist.
    """
    return tuple(hparams.model_name) if not isinstance(hparams.model_name, str) else load_from_hparams(hparams)


def show_result(console: Console, result: RunResult, out: Path) -> None:
    """Print the final scores, the records that were left out, and the folder."""
    summary = result.summary
    title = f"\n{summary['method']}, {counted(summary['n_edits'], 'edit')}"
    title += f", {summary['protocol']}" if "protocol" in summary else ""
    sampled = result.curve[-1].get("sampled") if result.curve else None
    title += f", scores of a sample of {sampled} (ES: of all)" if sampled else ""
    score_table(console, result.metrics, title)
    harness_table(console, summary.get(LM_EVAL, {}))
    for skipped in summary.get("skipped", []):
        console.print(f"left out: {skipped['reason']}", highlight=False)
    closing_lines(console, summary, out)
