"""The command ``run``: run an experiment file."""

from __future__ import annotations

import argparse
from pathlib import Path

from easyedit_lifelong.commands.compare_session import run_and_compare
from easyedit_lifelong.commands.run_session import run_and_report
from easyedit_lifelong.runs.compared_methods import COMPARISON_FILE
from easyedit_lifelong.runs.experiment_files import find_experiment, is_comparison, read_comparison, read_experiment
from easyedit_lifelong.runs.run_folder import CONFIG


def run(arguments: argparse.Namespace) -> int:
    """Run the experiment: one run, or a comparison of methods.

    Raises:
        LifelongError: the file, or an input that it names, can't be used.
    """
    file = find_experiment(arguments.file)
    if arguments.out is None:
        arguments.out = default_folder(file, arguments.resume)  # which an interruption's message needs
    return run_experiment_file(file, arguments)


def default_folder(file: Path, resume: bool) -> Path:
    """Return the default folder for the results of an experiment file: ``runs/`` and the file's name.

    To resume a run from its own ``config.yaml``, or a comparison from its ``compare.yaml``, it is the file's folder.
    """
    is_settings_of_results = file.name in (CONFIG, COMPARISON_FILE)
    name = f"{file.resolve().parent.name}-again" if is_settings_of_results else file.stem
    return file.parent if is_settings_of_results and resume else Path("runs") / name


def run_experiment_file(file: Path, arguments: argparse.Namespace) -> int:
    """Execute the run, or the comparison, that an experiment file describes.

    Args:
        file: the file.
        arguments: the command's options: the folder for the results is ``out``, and ``resume`` says whether to continue
            the interrupted run or comparison there. They get ``plans``, which an interruption's message needs.

    Returns:
        The exit code.

    Raises:
        LifelongError: a setting, the data or the model can't be used.
    """
    if is_comparison(file):
        return run_and_compare(read_comparison(file), arguments)
    run_and_report(read_experiment(file), arguments)
    return 0
