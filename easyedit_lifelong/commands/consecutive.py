"""The command ``consecutive``: edit a model with batches of facts. Its options include those of CoachHook's authors."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from easyedit_lifelong.commands.run_session import run_and_report
from easyedit_lifelong.commands.run_settings import loop_settings
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
    "eos": "eos",
    "seed": "seed",
}
"""Options that set a hyperparameter, and the name of the hyperparameter."""


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
    arguments.out = arguments.out or default_folder(hparams, arguments.data)  # which an interruption's message needs
    run_and_report(experiment, arguments)
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
