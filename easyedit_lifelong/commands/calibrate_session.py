"""Run a calibration from the command line: check the input, run the method's study, write a hyperparameter file."""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Collection
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from easyedit_lifelong.calibration.held_out_records import held_out_records
from easyedit_lifelong.calibration.search_outcome import scores_text
from easyedit_lifelong.calibration.staged_calibrator import StagedCalibrator
from easyedit_lifelong.calibration.staged_search import Budget
from easyedit_lifelong.calibration.trials import Trial
from easyedit_lifelong.clock import now
from easyedit_lifelong.commands.calibrate_files import (
    HPARAMS,
    PLOT,
    RESULT,
    TABLES,
    TRIAL_TABLE,
    TRIALS,
    VECTOR_PLOT,
    csv_text,
    hparams_text,
    read_steps,
    write,
    write_steps,
)
from easyedit_lifelong.commands.calibrate_start import CalibrationStart, adapted_start, calibration_start
from easyedit_lifelong.commands.covariance import parse_layers
from easyedit_lifelong.commands.run_session import load_model_for
from easyedit_lifelong.data.readers import read_requests
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import HyperParameterError, RunError
from easyedit_lifelong.folder_lock import locked_folder
from easyedit_lifelong.hparams_files import hparams_values
from easyedit_lifelong.methods.calibrator import CalibrationOutcome, Calibrator, Progress
from easyedit_lifelong.models.fingerprint import model_fingerprint
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.paths import expanded_path
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.plurals import counted
from easyedit_lifelong.reporting.calibrate_outcome import markdown_table, panels_images, show
from easyedit_lifelong.reporting.console_tables import print_line
from easyedit_lifelong.reporting.progress import count_progress
from easyedit_lifelong.reporting.terminal import Console
from easyedit_lifelong.runs.inputs import reader_of
from easyedit_lifelong.runs.requests_digest import requests_digest
from easyedit_lifelong.runs.run_folder import check_free
from easyedit_lifelong.versions import package_versions

_OWN_LIMIT = 500
"""Number of records that a method's own calibration reads by default. A search reads all, and takes the last ones."""

_SEARCH_EDITS = 20
"""Number of edits in each trial of a search by default. For a method's own calibration, the method decides."""

_SEARCH_OPTIONS, _OWN_OPTIONS = ("max_seconds", "max_trials"), ("answer_layers", "tries", "generality")


def calibrate_session(arguments: argparse.Namespace, given: Collection[str], command: str) -> None:
    """Run a calibration; check the input before the model is loaded.

    Args:
        arguments: the arguments of the command ``calibrate``.
        given: the names of those that do not have their default.
        command: the command line, for a comment in the hyperparameter file.

    Raises:
        LifelongError: an argument can't be used, or the calibration failed.
    """
    console, out = Console(), expanded_path(arguments.out, RunError)
    start = calibration_start(arguments)
    own = _own_calibrator(start)
    _check_options(start, given, _SEARCH_OPTIONS if own is not None else _OWN_OPTIONS)
    requests = _read_requests(arguments, _OWN_LIMIT if own is not None else None)
    calibrator: Calibrator
    if own is None:
        calibrator = _staged_calibrator(arguments, start, requests, out, console)
        requests = calibrator.records.requests
    else:
        calibrator, requests = own, requests[arguments.offset or 0 :]
    calibrator.settings(start.hparams, vars(arguments))  # checks them
    if arguments.resume:
        read_steps(out, calibrator, None)
    else:
        _check_free(out)
    subject = (
        f"{calibrator.name} for {start.hparams.model_name} on {counted(len(requests), 'record')} of {arguments.data}"
    )
    print_line(console, f"Calibrating {subject}")
    model, tokenizer = load_model_for(start.hparams)
    if isinstance(calibrator, StagedCalibrator):
        start = adapted_start(start, model, arguments)
        calibrator = dataclasses.replace(calibrator, hparams=start.hparams)
    study_settings = calibrator.settings(start.hparams, vars(arguments))
    # When a calibration is resumed, only these settings can differ: the device, and values that it chooses.
    may_differ = {"device", "model_parallel", "model_name", *calibrator.comments}
    settings = {
        "model": model_label(model),
        "weights": model_fingerprint(model),
        "data": arguments.data,
        "requests_sha256": requests_digest(requests, []),
        **vars(study_settings),
        "hparams": {name: value for name, value in hparams_values(start.hparams).items() if name not in may_differ},
    }
    with locked_folder(out, work="calibrating into this folder"):
        if not arguments.resume:
            _check_free(out)  # another process may have calibrated there since the first check
        steps = read_steps(out, calibrator, settings) if arguments.resume else calibrator.steps(None)
        save, show_step = functools.partial(write_steps, out, settings), functools.partial(_show_step, console)
        outcome = calibrator.run(model, tokenizer, requests, start.hparams, study_settings, steps, save, show_step)
        names = _write_files(out, arguments.data, command, calibrator, settings, steps, outcome, start.values)
    for table in outcome.short_tables:
        show(console, table)
    console.print()
    for line in [*outcome.verdict, f"\nResults: {out}/ ({', '.join(names)})"]:
        print_line(console, line)


def _check_free(out: Path) -> None:
    """Raise a RunError if a folder holds another calibration."""
    files = (RESULT, HPARAMS, TABLES, PLOT, VECTOR_PLOT, TRIALS, TRIAL_TABLE)
    check_free(out, resumable=True, what="calibration", files=files)


def _own_calibrator(start: CalibrationStart) -> Calibrator | None:
    """Return the method's own calibrator; None if a search is to calibrate these hyperparameters.

    Raises:
        HyperParameterError: neither can.
    """
    own, hparams = start.method.calibrate, start.hparams
    mismatch = hparams.alg_name if own is None else own.mismatch(hparams)
    if own is not None and mismatch is None:
        return own
    if start.method.search_space is not None:
        return None
    methods = list(get_plugins().methods)
    accepts = [method.calibrate.accepts for method in methods if method.calibrate is not None]
    searchable = [method.name for method in methods if method.search_space is not None]
    accepts.append(f"{', '.join(searchable)}, which have a search space.")
    raise HyperParameterError(f"{hparams.source}: is for {mismatch}; calibrate is for {' Or '.join(accepts)}")


def _check_options(start: CalibrationStart, given: Collection[str], others: Collection[str]) -> None:
    """Check that no option is given that only the other kind of calibration has.

    Raises:
        HyperParameterError: one is.
    """
    for name in others:
        if name in given:
            option = f"--{name.replace('_', '-')}"
            kind = "a staged search" if name in _SEARCH_OPTIONS else "GRACE by subjects"
            raise HyperParameterError(f"{option}: is for {kind}; {start.method.name} is calibrated in another way here")


def _read_requests(arguments: argparse.Namespace, limit: int | None) -> list[EditRequest]:
    """Read the records: the first ``--limit`` of the data, or else this many; None for all."""
    read = reader_of(arguments.data, arguments.format).read
    limit = limit if arguments.limit is None else arguments.limit
    return read_requests(arguments.data, read, skip_unusable=arguments.skip_unusable, limit=limit)


def _staged_calibrator(
    arguments: argparse.Namespace,
    start: CalibrationStart,
    requests: list[EditRequest],
    out: Path,
    console: Console,
) -> StagedCalibrator:
    """Return the calibrator of a method that has a search space.

    Raises:
        DataError: too few records can be used.
        LifelongError: ``--layers`` is no list of blocks.
    """

    def report(trial: Trial) -> None:
        print_line(console, f"trial {trial.number}: {trial.problem or scores_text(trial)}, {trial.seconds:.1f} s")

    return StagedCalibrator(
        start.method,
        start.hparams,
        held_out_records(requests, arguments.edits or _SEARCH_EDITS, arguments.offset, arguments.data),
        None if arguments.layers is None else tuple(parse_layers(arguments.layers)),
        Budget(arguments.max_seconds, arguments.max_trials),
        out / TRIALS,
        report,
    )


def _show_step(console: Console, name: str) -> AbstractContextManager[Progress]:
    """Show the progress of a step; if the output is not a terminal, print the name of the step first."""
    if not console.is_terminal:
        print_line(console, f"{name} …")
    return count_progress(console, name)


def _write_files(
    out: Path,
    data: str,
    command: str,
    calibrator: Calibrator,
    settings: dict[str, Any],
    steps: Any,
    outcome: CalibrationOutcome,
    values: dict[str, Any],
) -> list[str]:
    """Write all files, the hyperparameter file last, so that the other files exist if it does; return their names.

    Raises:
        RunError: a file can't be written.
    """
    counts = outcome.counts
    basis = f"On {counts['records']} of {counted(counts['given'], 'record')} of {data}; {outcome.evidence}."
    title = f"# Calibration of {calibrator.name} for {settings['model']}"
    picture = f"![{outcome.caption}]({PLOT})"
    tables = "\n".join(map(markdown_table, outcome.tables))
    write(out / TABLES, "\n\n".join([title, basis, *outcome.verdict, picture, tables]))
    plot, vector_plot = panels_images(outcome.panels)
    write(out / PLOT, plot)
    write(out / VECTOR_PLOT, vector_plot)
    if outcome.rows:
        write(out / TRIAL_TABLE, csv_text(outcome.rows))
    results = {"counts": counts, "picked": outcome.chosen, "scores": outcome.scores}
    write_steps(out, settings, steps, {**results, "versions": package_versions(), "finished": now()})
    heading = "\n".join([f"{calibrator.name}, calibrated {now()}:", command, basis, *outcome.verdict])
    write(out / HPARAMS, hparams_text(values, outcome.chosen, calibrator.comments, heading))
    return [HPARAMS, TABLES, PLOT, VECTOR_PLOT, RESULT, *([TRIALS, TRIAL_TABLE] if outcome.rows else [])]
