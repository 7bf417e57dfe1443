"""The command ``consecutive``: edit a model with batches of facts. Its options include those of CoachHook's authors."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from easyedit_lifelong.commands.option_types import positive_float, positive_int
from easyedit_lifelong.commands.run_options import (
    DATA,
    FORMAT_HELP,
    RECORDS,
    add_joiner_argument,
    add_loop_arguments,
    loop_settings,
    spellings,
)
from easyedit_lifelong.commands.run_session import run_and_report
from easyedit_lifelong.data.samples import COUNTERFACT
from easyedit_lifelong.models.packaged_models import DEFAULT_MODEL
from easyedit_lifelong.runs.experiment import CONSECUTIVE, KEEP_EDITS, SINGLE_ROUND, Experiment
from easyedit_lifelong.runs.hyperparameter_files import (
    check_method_name,
    load_hparams,
    registered_name,
    replace_hparams,
    shipped_hparams,
)

AUTHORS_METHOD = "CoachHook"
"""The method and the model if the command line names none; the method is that of the authors' script."""

FIELDS = {
    "stats_dir": "stats_dir",
    "model": "model_name",
    "bsz": "batch_size",
    "mom2_update_weight": "mom2_update_weight",
    "alpha_z": "alpha_z",
    "num_layers": "num_layers",
    "wohk": "wohk",
    "device": "device",
    "joiner": "joiner",
}
"""Options that set a hyperparameter, and the name of the hyperparameter."""

EXAMPLE = "easyedit-lifelong consecutive --method AlphaEdit --data facts.json --edits 100 --bsz 10 --out runs/mine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the consecutive-batch loop."""
    add_script_arguments(parser)
    add = parser.add_argument
    add(
        "--method",
        help="editing method, also one of EasyEdit's own such as MEMIT or EasyEdit/AlphaEdit (default CoachHook)",
    )
    add(
        "--consecutive",
        type=int,
        choices=(0, 1),
        nargs="?",
        const=1,
        default=1,
        help="1: keep each batch (default); 0: roll each batch back before the next (the authors' default)",
    )
    add("--out", type=Path, metavar="DIR", help="folder for the results (default runs/consecutive/METHOD-MODEL-DATA)")
    add_loop_arguments(parser, CONSECUTIVE, "batches")


def add_script_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the authors' scripts, with their names, with dashes or underscores."""

    def add(name: str, **options: Any) -> None:
        parser.add_argument(*spellings(name), **options)

    add("hparams", help="hyperparameter file or shipped name (default: the method's for the model)")
    add("model", help="model name or folder (default: the hyperparameter file's, else smollm2-135m)")
    add("device", help="device (default: the hyperparameter file's)")
    parser.add_argument(*DATA, default=str(COUNTERFACT), metavar="FILE", help="dataset file (default: sample facts)")
    add("format", help=FORMAT_HELP)
    parser.add_argument(
        *RECORDS, type=positive_int, default=100, metavar="N", help="use only the first N records (default 100)"
    )
    add("bsz", type=positive_int, metavar="B", help="edits per batch")
    add("stats_dir", metavar="DIR", help="folder of second-moment statistics")
    add("mom2_update_weight", type=positive_float, metavar="W", help="weight of the second moments")
    add("alpha_z", type=float, metavar="A", help="initial alpha: the score above which a hook acts")
    add("num_layers", type=positive_int, metavar="L", help="edit only the last L of the layers")
    add_joiner_argument(parser)
    add("wohk", type=int, choices=(0, 1), nargs="?", const=1, help="1: without hook layers")


def run(arguments: argparse.Namespace) -> int:
    """Edit the model with batches of facts, and score the edits.

    Raises:
        LifelongError: an input can't be used.
    """
    hparams = hparams_from_arguments(arguments, arguments.method)
    experiment = Experiment(
        CONSECUTIVE,
        hparams,
        protocol=KEEP_EDITS if arguments.consecutive else SINGLE_ROUND,
        **loop_settings(arguments),
    )
    run_and_report(experiment, arguments.out or default_folder(hparams, arguments.data), arguments.resume)
    return 0


def hparams_from_arguments(arguments: argparse.Namespace, method: str | None = None) -> Any:
    """Return the hyperparameters of a file, changed by the options of :data:`FIELDS`.

    Args:
        arguments: the values of the options of :func:`add_script_arguments`. Without ``hparams``, the file shipped for
            the method and the model is read.
        method: the method's name, without regard to case; None for the method of the file, or of the authors' script.

    Raises:
        HyperParameterError: there is no such file, or the method lacks a hyperparameter.
        PluginError: there is no such method.
    """
    options = {option: value for option in FIELDS if (value := getattr(arguments, option)) is not None}
    if "wohk" in options:
        options["wohk"] = bool(options["wohk"])
    method = None if method is None else registered_name(method)
    file = arguments.hparams
    if file is None:
        check_method_name(method or AUTHORS_METHOD)
        model = options.get("model", DEFAULT_MODEL)
        file = str(shipped_hparams(method or AUTHORS_METHOD, model))
        if "/" not in model:  # this is the name of the file, which holds the model's full name
            options.pop("model", None)
    hparams = load_hparams(file, easyedits=True, method=method)
    return replace_hparams(
        hparams,
        {FIELDS[option]: value for option, value in options.items()},
        {FIELDS[option]: f"--{option}" for option in options},
    )


def default_folder(hparams: Any, data: str) -> Path:
    """Return the default folder for the results, named by method, model and data file."""
    name = hparams.model_name if isinstance(hparams.model_name, str) else "model"
    model = name.rstrip("/").rpartition("/")[2] or "model"
    return Path("runs/consecutive") / f"{hparams.alg_name}-{model}-{Path(data).stem}"
