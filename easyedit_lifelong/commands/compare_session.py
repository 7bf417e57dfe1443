"""Execute a comparison: check everything, run each method on the unedited model, write the page and the tables."""

from __future__ import annotations

import argparse
import gc
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from easyedit_lifelong.commands.report import PAGE, write_report
from easyedit_lifelong.commands.run_session import load_model_for
from easyedit_lifelong.errors import reason_of
from easyedit_lifelong.evaluation.unedited_answers import UneditedAnswers
from easyedit_lifelong.plurals import counted
from easyedit_lifelong.reporting.comparison_console import print_tables
from easyedit_lifelong.reporting.console_tables import print_line
from easyedit_lifelong.reporting.progress import edit_progress
from easyedit_lifelong.reporting.report.comparison_table import comparison_tables
from easyedit_lifelong.reporting.report.read import read_run
from easyedit_lifelong.reporting.report.style import figure_options
from easyedit_lifelong.reporting.terminal import Console
from easyedit_lifelong.runs.compared_methods import REPORT, MethodComparison
from easyedit_lifelong.runs.comparison import (
    ComparedRun,
    ComparisonPlan,
    check_on_model,
    comparison_folder,
    plan_comparison,
)
from easyedit_lifelong.runs.execute import execute
from easyedit_lifelong.runs.inputs import Inputs

LOG = logging.getLogger(__name__)


def run_and_compare(comparison: MethodComparison, arguments: argparse.Namespace) -> int:
    """Run the methods of a comparison that aren't finished yet, and write the page that compares all of them.

    A method that fails is reported; the others still run.

    Args:
        comparison: the settings.
        arguments: the command's options: the folder of the comparison is ``out``, and ``resume`` says whether it must
            hold one. They get ``plans``, which an interruption's message needs.

    Returns:
        The exit code: 0, or 1 if a method failed.

    Raises:
        LifelongError: a setting, the data or the model can't be used. All methods are checked before the first edit.
    """
    console = Console()
    plan = plan_comparison(comparison, arguments.out, arguments.resume)
    arguments.plans = [run.plan for run in plan.runs]
    with ExitStack() as stack:
        failures = _run_methods(console, plan, stack)
        _report(console, plan, failures)
    return 1 if failures else 0


def _run_methods(console: Console, plan: ComparisonPlan, stack: ExitStack) -> dict[str, str]:
    """Run the methods that aren't finished; return the reasons of those that failed, by label.

    Args:
        console: the console.
        plan: the comparison.
        stack: holds the lock of the folder from the moment when everything has been checked.
    """
    pending = [run for run in plan.runs if not run.finished]
    loaded, unedited_answers = None, UneditedAnswers()
    if pending:
        loaded = load_model_for(pending[0].plan.hparams)
        plan = check_on_model(plan, *loaded)
        for skipped in plan.skipped:
            print_line(console, f"left out: {skipped['reason']}")
    stack.enter_context(comparison_folder(plan))
    failures = {}
    for number, run in enumerate(plan.runs, 1):
        title = f"[{number}/{len(plan.runs)}] {run.label}"
        if run not in pending:
            print_line(console, f"{title}: finished earlier")
            continue
        state = "continues" if run.begun else "starts"
        print_line(
            console, f"{title}: {state}; {counted(len(plan.inputs.requests), 'edit')}, batches of {run.plan.batch_size}"
        )
        try:
            summary = _run_method(console, run, plan.inputs, loaded, unedited_answers)
        except Exception as error:  # whatever goes wrong in one method must not stop the others
            LOG.debug("%s failed", run.label, exc_info=True)
            failures[run.label] = reason_of(error)
            print_line(console, f"{title}: failed: {failures[run.label]}")
        else:
            seconds = summary["timing"]["seconds_per_edit"]
            print_line(console, f"{title}: finished; {seconds:.2f} s an edit (mean), {summary['n_failed']} failed")
        loaded = None
        gc.collect()  # frees the edited model before the next one is loaded
    return failures


def _run_method(
    console: Console,
    run: ComparedRun,
    inputs: Inputs,
    loaded: tuple[Any, Any] | None,
    unedited_answers: UneditedAnswers,
) -> dict[str, Any]:
    """Run one method and return its summary.

    Args:
        console: the console.
        run: the run.
        inputs: the data.
        loaded: the unedited model and its tokenizer; None to load them. Every method gets a model that no other method
            has edited.
        unedited_answers: the unedited model's answers, which all methods share.
    """
    model, tokenizer = loaded or load_model_for(run.plan.hparams)
    with edit_progress(console, len(inputs.requests)) as progress:
        return execute(run.plan, inputs, model, tokenizer, progress, unedited_answers=unedited_answers).summary


def _report(console: Console, plan: ComparisonPlan, failures: dict[str, str]) -> None:
    """Write the page and the tables of all runs that have begun; print the tables, the failures and the files."""
    begun = [run for run in plan.runs if run.begun]
    page = plan.out / REPORT / PAGE
    if begun:
        runs = [read_run(run.folder) for run in begun]
        labels = [run.label for run in begun]
        warnings = [f"{label} failed: {reason}" for label, reason in failures.items()]
        with figure_options():
            write_report(runs, page, labels, warnings)
        print_tables(console, comparison_tables(runs, labels))
        print_line(console, f"\nPage: {page}\nTables: {_listed(page, ('md', 'tex', 'csv', 'json'))}")
    for label, reason in failures.items():
        print_line(console, f"{label} failed: {reason}")
    if failures:
        print_line(console, "The same command runs the failed methods again and leaves the others as they are.")


def _listed(page: Path, endings: Sequence[str]) -> str:
    """Return the names of the tables beside a page."""
    return ", ".join(str(page.with_name(f"table.{ending}")) for ending in endings)
