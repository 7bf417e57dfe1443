"""The command ``train``: train a method for one model, before it can edit."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from easyedit_lifelong.commands.run_session import load_model_for
from easyedit_lifelong.data.readers import read_requests
from easyedit_lifelong.errors import HyperParameterError, RunError
from easyedit_lifelong.models.packaged_models import DEFAULT_MODEL
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.plurals import counted
from easyedit_lifelong.reporting.console_tables import print_line
from easyedit_lifelong.reporting.progress import count_progress
from easyedit_lifelong.reporting.terminal import Console
from easyedit_lifelong.runs.hyperparameter_files import (
    find_method,
    load_hparams,
    registered_name,
    replace_hparams,
    shipped_hparams,
)
from easyedit_lifelong.runs.inputs import reader_of
from easyedit_lifelong.runs.training import check_enough, train_editor
from easyedit_lifelong.runs.training_folder import CURVE, check_training_folder


def run(arguments: argparse.Namespace) -> int:
    """Train the method; check the input before the model is loaded.

    Raises:
        LifelongError: an argument can't be used, or the training failed.
    """
    console = Console()
    hparams = _hyperparameters(arguments)
    out = arguments.out or getattr(hparams, "archive", None)
    if out is None:
        raise RunError(f"{hparams.source}: archive: names no folder for the trained method; name one with --out")
    arguments.out = check_training_folder(Path(out), arguments.resume)  # which an interruption's message needs
    requests = read_requests(
        arguments.data,
        reader_of(arguments.data, arguments.format).read,
        skip_unusable=arguments.skip_unusable,
        limit=None if arguments.limit is None else arguments.offset + arguments.limit,
    )[arguments.offset :]
    check_enough(requests)
    print_line(console, f"Training {hparams.alg_name} for {hparams.model_name} on {counted(len(requests), 'record')}")
    model, tokenizer = load_model_for(hparams)
    with count_progress(console, "training edits") as progress:

        def report(done: int, total: int | None, text: str | None) -> None:
            if text is not None:
                print_line(console, text)
            progress(done, total or done)

        result = train_editor(
            model,
            tokenizer,
            requests,
            hparams,
            out,
            edits=arguments.edits,
            minutes=arguments.minutes,
            resume=arguments.resume,
            report=report,
        )
    print_line(console, f"Ended after {counted(result.edits, 'training edit')}: {result.reason}.")
    print_line(
        console,
        f"{result.folder}/ has the {hparams.alg_name} of edit {result.best_edits}, with the smallest loss on held-out "
        f"records ({result.best_loss:.4g}). {CURVE} has the training curve. Set archive: {result.folder} to edit.",
    )
    return 0


def _hyperparameters(arguments: argparse.Namespace) -> Any:
    """Return the hyperparameters of a method that can be trained.

    Raises:
        HyperParameterError: there is no such file, or its method is not trained.
        PluginError: there is no such method.
    """
    name = registered_name(arguments.method)
    get_plugins().methods.get(name)
    options = {"model_name": "--model", "device": "--device"}
    replacements = {"model_name": arguments.model, "device": arguments.device}
    file = arguments.hparams
    if file is None:
        model = arguments.model or DEFAULT_MODEL
        file = shipped_hparams(name, model)
        if "/" not in model:  # this is the name of the file, which holds the model's full name
            replacements["model_name"] = None
    hparams = load_hparams(file, method=name)
    if find_method(hparams).train is None:
        trained = ", ".join(method.name for method in get_plugins().methods if method.train is not None)
        raise HyperParameterError(f"--method {name}: is not trained. Methods that are: {trained}")
    return replace_hparams(hparams, replacements, options)
