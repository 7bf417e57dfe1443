"""Calibration of GRACE by subjects from the command line: check everything, look, pick, write a hyperparameter file."""

from __future__ import annotations

import argparse
import contextlib
import functools
import shlex
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from easyedit_lifelong.atomic import replacing
from easyedit_lifelong.calibration.candidates import Layer, parse_layers
from easyedit_lifelong.calibration.files import (
    HPARAMS,
    PLOT,
    RESULT,
    TABLES,
    hparams_text,
    outcome_of,
    read_steps,
    write,
    write_steps,
)
from easyedit_lifelong.calibration.study import Calibration, Settings, Steps, calibrate
from easyedit_lifelong.clock import now
from easyedit_lifelong.commands.option_types import positive_int, share
from easyedit_lifelong.commands.run_options import DATA, add_model_arguments
from easyedit_lifelong.commands.run_session import load_for, reader_of
from easyedit_lifelong.data.readers import read_requests
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import HyperParameterError, RunError
from easyedit_lifelong.hyperparams import find_hparams, hparams_values, read_hparams_file
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.models.fingerprint import model_fingerprint
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.reporting.calibrate_plot import calibration_png
from easyedit_lifelong.reporting.calibrate_tables import tables_of, verdict
from easyedit_lifelong.reporting.console_tables import say
from easyedit_lifelong.reporting.progress import count_progress
from easyedit_lifelong.runs.folder_lock import lock_folder
from easyedit_lifelong.runs.hyperparameter_files import load_hparams, replaced
from easyedit_lifelong.runs.run_config import requests_digest
from easyedit_lifelong.runs.run_folder import check_free

_ELSEWHERE = ("device", "model_parallel", "inner_params", "dist_fn", "whiten", "eps", "answer_layer", "gate_eps",
              "false_fire_rate", "model_name")  # fmt: skip
"""Hyperparameters that a resumed calibration may be given otherwise: where it computes, and what it picks itself."""

HELP = "pick layers, distance, radius and gate of GRACE by subjects for a model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the calibration."""
    add = parser.add_argument
    add("--hparams", required=True, help="file of GRACE by subjects to begin with, or GRACE/smollm2-135m-subject")
    add(*DATA, required=True, metavar="FILE", help="records held aside: a file, or hub:OWNER/NAME[[:CONFIG]:SPLIT]")
    add("--format", help="of --data: zsre, counterfact, json, or another of `plugins` (default: as the file looks)")
    add(
        "--limit",
        "--sample",
        type=positive_int,
        default=500,
        metavar="N",
        help="only the first N records of --data (default 500)",
    )
    add("--edits", type=positive_int, default=50, metavar="N", help="edit the first N of them (default 50)")
    add("--layers", metavar="L", help="where subjects may be found: blocks, such as 1-4,6, or modules")
    add("--answer-layers", metavar="L", help="where edits may answer: later blocks, or modules")
    add("--tries", type=positive_int, default=2, metavar="N", help="edit at the N most promising of these (default 2)")
    add(
        "--false-fire-rate",
        type=share,
        metavar="R",
        help="share of unrelated prompts in which a key may be found (default: the file's)",
    )
    add(
        "--generality",
        type=share,
        default=0.9,
        metavar="G",
        help="share of the generality without a gate that the gate has to leave (default 0.9)",
    )
    add(
        "--out",
        type=Path,
        default=Path("runs/calibration"),
        metavar="DIR",
        help="folder for the results (default runs/calibration)",
    )
    add_model_arguments(parser)
    add("--resume", action="store_true", help="go on with the calibration in --out that was cut short")


def run(arguments: argparse.Namespace) -> int:
    """Calibrate as the arguments say.

    Raises:
        LifelongError: an input cannot be used.
    """
    calibrate_session(Options(**{name: getattr(arguments, name) for name in Options.__dataclass_fields__}))
    return 0


@dataclass(frozen=True)
class Options:
    """What the command line says; None where it says nothing.

    Attributes:
        hparams: hyperparameter file, or a shipped name.
        data: dataset file, or a dataset's name.
        out: folder for the results.
        model: model name or folder, instead of the file's.
        device: where it goes, instead of the file's.
        format: of the data.
        limit: only so many of the records.
        layers: where subjects may be found, as :func:`parse_layers` reads them.
        answer_layers: where edits may answer.
        false_fire_rate: instead of the file's.
        generality: share of the generality without a gate that the gate has to leave.
        edits: how many records are edited.
        tries: at how many answering layers.
        resume: go on with what was cut short.
    """

    hparams: str
    data: str
    out: Path
    model: str | None = None
    device: str | None = None
    format: str | None = None
    limit: int | None = 500
    layers: str | None = None
    answer_layers: str | None = None
    false_fire_rate: float | None = None
    generality: float = 0.9
    edits: int = 50
    tries: int = 2
    resume: bool = False


def calibrate_session(options: Options) -> Calibration:
    """Calibrate as the command line asks; everything that can be is checked before the model loads.

    Raises:
        LifelongError: something asked for can't be had.
    """
    console = Console()
    hparams = _hyperparameters(options)
    settings = Settings(
        _layers(options.layers, "--layers"), _layers(options.answer_layers, "--answer-layers"),
        hparams.false_fire_rate, options.generality, options.edits, options.tries,
    )  # fmt: skip
    out = options.out.expanduser()
    if options.resume:
        read_steps(out, None)
    else:
        check_free(out, resumable=True, what="calibration", files=(RESULT, HPARAMS, TABLES, PLOT))
    requests = read_requests(options.data, reader_of(options.data, options.format).read)[: options.limit]
    say(console, f"Calibrating GRACE by subjects for {hparams.model_name} on {len(requests)} records of {options.data}")
    model, tokenizer = load_for(hparams)
    asked = _asked(options, settings, hparams, requests, model)
    with _working_in(out):
        steps = read_steps(out, asked) if options.resume else Steps()
        calibration = calibrate(
            model, tokenizer, requests, hparams, settings, steps=steps,
            keep=functools.partial(write_steps, out, asked), showing=functools.partial(_showing, console),
        )  # fmt: skip
        _write(out, asked, options, settings, calibration)
    _show(console, calibration, settings, out)
    return calibration


def _hyperparameters(options: Options) -> GraceHyperParams:
    hparams = load_hparams(options.hparams)
    if not isinstance(hparams, GraceHyperParams) or not hparams.by_subject:
        is_what = f"query_token: {hparams.query_token}" if isinstance(hparams, GraceHyperParams) else hparams.alg_name
        raise HyperParameterError(
            f"{hparams.source}: is for {is_what}; calibrate is for GRACE by subjects (query_token: subject_last). "
            "Begin with GRACE/smollm2-135m-subject, or a copy of it, and --model."
        )
    given = {"model_name": options.model, "device": options.device, "false_fire_rate": options.false_fire_rate}
    called = {"model_name": "--model", "device": "--device", "false_fire_rate": "--false-fire-rate"}
    return replaced(hparams, given, called)


def _layers(text: str | None, option: str) -> tuple[Layer, ...] | None:
    return None if text is None else tuple(parse_layers(text, option))


def _asked(
    options: Options, settings: Settings, hparams: GraceHyperParams, requests: list[EditRequest], model: Any
) -> dict[str, Any]:
    """Return what tells this calibration from any other."""
    values = {name: value for name, value in hparams_values(hparams).items() if name not in _ELSEWHERE}
    return {
        "model": model_label(model), "weights": model_fingerprint(model), "data": options.data,
        "requests_sha256": requests_digest(requests, []), **vars(settings), "hparams": values,
    }  # fmt: skip


@contextlib.contextmanager
def _working_in(out: Path) -> Iterator[None]:
    """Make the folder, and let no other process work in it meanwhile."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{out}: can't make this folder: {error.strerror}") from error
    lock = lock_folder(out)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _showing(console: Console, what: str) -> AbstractContextManager[Callable[[int, int], None]]:
    """Show a step's progress; where nobody watches, its name."""
    if not console.is_terminal:
        say(console, f"{what} …")
    return count_progress(console, what)


def _write(out: Path, asked: dict[str, Any], options: Options, settings: Settings, calibration: Calibration) -> None:
    """Write the files; the hyperparameter file last, so that where it is, all is.

    Raises:
        RunError: one can't be written.
    """
    told = verdict(calibration, settings)
    title = f"# Calibration of GRACE by subjects for {asked['model']}"
    basis = (
        f"On {calibration.counts.records} of {calibration.counts.given} records of {options.data}; "
        f"{calibration.counts.paraphrases} paraphrases, {calibration.counts.locality} locality prompts."
    )
    tables = "\n".join(table.markdown() for table in tables_of(calibration, settings))
    picture = f"![Paraphrases found by layer and distance; what the gate trades]({PLOT})"
    write(out / TABLES, "\n\n".join([title, basis, *told, picture, tables]))
    try:
        with replacing(out / PLOT) as temporary:
            temporary.write_bytes(calibration_png(calibration, settings))
    except OSError as error:
        raise RunError(f"{out / PLOT}: can't be written: {error.strerror}") from error
    write_steps(out, asked, calibration.steps, outcome_of(calibration))
    values = read_hparams_file(find_hparams(options.hparams))
    given = {"model_name": options.model, "device": options.device}
    values |= {name: value for name, value in given.items() if value is not None}
    found = "\n".join([f"GRACE by subjects, calibrated {now()}:", _command(options), basis, *told])
    write(out / HPARAMS, hparams_text(values, calibration.choice.values(settings.false_fire_rate), found))


def _command(options: Options) -> str:
    """Return the command line that says the same."""
    words = ["easyedit-lifelong", "calibrate"]
    for name, value in vars(options).items():
        if value is not None and value != Options.__dataclass_fields__[name].default:
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return shlex.join(words)


def _show(console: Console, calibration: Calibration, settings: Settings, out: Path) -> None:
    for table in tables_of(calibration, settings, short=True):
        table.show(console)
    console.print()
    for line in verdict(calibration, settings):
        say(console, line)
    say(console, f"\nResults: {out}/ ({HPARAMS}, {TABLES}, {PLOT}, {RESULT})")
