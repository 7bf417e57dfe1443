"""Run a calibration from the command line: check the input, run the method's study, write a hyperparameter file."""

from __future__ import annotations

import argparse
import functools
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from easyedit_lifelong.clock import now
from easyedit_lifelong.commands.calibrate_files import (
    HPARAMS,
    PLOT,
    RESULT,
    TABLES,
    hparams_text,
    read_steps,
    write,
    write_steps,
)
from easyedit_lifelong.commands.run_session import load_model_for
from easyedit_lifelong.data.readers import read_requests
from easyedit_lifelong.errors import HyperParameterError
from easyedit_lifelong.folder_lock import locked_folder
from easyedit_lifelong.hparams_files import find_hparams, hparams_values, read_hparams_file
from easyedit_lifelong.methods.calibrator import CalibrationOutcome, Calibrator, Progress
from easyedit_lifelong.models.fingerprint import model_fingerprint
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.reporting.calibrate_outcome import markdown_table, panels_png, show
from easyedit_lifelong.reporting.console_tables import print_line
from easyedit_lifelong.reporting.progress import count_progress
from easyedit_lifelong.reporting.terminal import Console
from easyedit_lifelong.runs.hyperparameter_files import find_method, load_hparams, replace_hparams
from easyedit_lifelong.runs.inputs import reader_of
from easyedit_lifelong.runs.run_config import requests_digest
from easyedit_lifelong.runs.run_folder import check_free
from easyedit_lifelong.versions import package_versions


def calibrate_session(arguments: argparse.Namespace, command: str) -> None:
    """Run a calibration; check the input before the model is loaded.

    Args:
        arguments: the arguments of the command ``calibrate``.
        command: the command line, for a comment in the hyperparameter file.

    Raises:
        LifelongError: an argument can't be used, or the calibration failed.
    """
    console, out = Console(), arguments.out.expanduser()
    hparams, calibrator = _hyperparameters(arguments)
    study_settings = calibrator.settings(hparams, vars(arguments))
    if arguments.resume:
        read_steps(out, calibrator, None)
    else:
        check_free(out, resumable=True, what="calibration", files=(RESULT, HPARAMS, TABLES, PLOT))
    requests = read_requests(
        arguments.data,
        reader_of(arguments.data, arguments.format).read,
        skip_unusable=arguments.skip_unusable,
        limit=arguments.limit,
    )
    subject = f"{calibrator.name} for {hparams.model_name} on {len(requests)} records of {arguments.data}"
    print_line(console, f"Calibrating {subject}")
    model, tokenizer = load_model_for(hparams)
    # When a calibration is resumed, only these settings can differ: the device, and values that it chooses.
    may_differ = {"device", "model_parallel", "model_name", *calibrator.comments}
    settings = {
        "model": model_label(model),
        "weights": model_fingerprint(model),
        "data": arguments.data,
        "requests_sha256": requests_digest(requests, []),
        **vars(study_settings),
        "hparams": {name: value for name, value in hparams_values(hparams).items() if name not in may_differ},
    }
    with locked_folder(out, work="calibrating into this folder"):
        steps = read_steps(out, calibrator, settings) if arguments.resume else calibrator.steps(None)
        save, show_step = functools.partial(write_steps, out, settings), functools.partial(_show_step, console)
        outcome = calibrator.run(model, tokenizer, requests, hparams, study_settings, steps, save, show_step)
        _write_files(out, arguments, command, calibrator, settings, steps, outcome)
    for table in outcome.short_tables:
        show(console, table)
    console.print()
    for line in [*outcome.verdict, f"\nResults: {out}/ ({HPARAMS}, {TABLES}, {PLOT}, {RESULT})"]:
        print_line(console, line)


def _hyperparameters(arguments: argparse.Namespace) -> tuple[Any, Calibrator]:
    """Return the hyperparameters to start from, and the calibrator of their method."""
    hparams = load_hparams(arguments.hparams)
    calibrator = find_method(hparams).calibrate
    mismatch = hparams.alg_name if calibrator is None else calibrator.mismatch(hparams)
    if calibrator is None or mismatch is not None:
        calibrators = [method.calibrate for method in get_plugins().methods if method.calibrate is not None]
        accepts = " Or ".join(calibrator.accepts for calibrator in calibrators)
        raise HyperParameterError(f"{hparams.source}: is for {mismatch}; calibrate is for {accepts}")
    options = {"model_name": "--model", "device": "--device", "false_fire_rate": "--false-fire-rate"}
    replacements = {**_replacements(arguments), "false_fire_rate": arguments.false_fire_rate}
    return replace_hparams(hparams, replacements, options), calibrator


def _replacements(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the hyperparameters ``model_name`` and ``device``, as far as the command line gives them."""
    options = {"model_name": arguments.model, "device": arguments.device}
    return {name: value for name, value in options.items() if value is not None}


def _show_step(console: Console, name: str) -> AbstractContextManager[Progress]:
    """Show the progress of a step; if the output is not a terminal, print the name of the step first."""
    if not console.is_terminal:
        print_line(console, f"{name} …")
    return count_progress(console, name)


def _write_files(
    out: Path,
    arguments: argparse.Namespace,
    command: str,
    calibrator: Calibrator,
    settings: dict[str, Any],
    steps: Any,
    outcome: CalibrationOutcome,
) -> None:
    """Write all files, the hyperparameter file last, so that the other files exist if it does.

    Raises:
        RunError: a file can't be written.
    """
    counts = outcome.counts
    basis = f"On {counts['records']} of {counts['given']} records of {arguments.data}; {outcome.evidence}."
    title = f"# Calibration of {calibrator.name} for {settings['model']}"
    picture = f"![{outcome.caption}]({PLOT})"
    tables = "\n".join(map(markdown_table, outcome.tables))
    write(out / TABLES, "\n\n".join([title, basis, *outcome.verdict, picture, tables]))
    write(out / PLOT, panels_png(outcome.panels))
    results = {"counts": counts, "picked": outcome.chosen, "scores": outcome.scores}
    write_steps(out, settings, steps, {**results, "versions": package_versions(), "finished": now()})
    values = read_hparams_file(find_hparams(arguments.hparams)) | _replacements(arguments)
    heading = "\n".join([f"{calibrator.name}, calibrated {now()}:", command, basis, *outcome.verdict])
    write(out / HPARAMS, hparams_text(values, outcome.chosen, calibrator.comments, heading))
