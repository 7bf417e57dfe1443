"""A consecutive-batch run from the command line, with the arguments of the authors' script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from easyedit_lifelong import bridge
from easyedit_lifelong.commands.run_session import session
from easyedit_lifelong.data.samples import COUNTERFACT
from easyedit_lifelong.errors import HyperParameterError, LifelongError, PluginError, did_you_mean
from easyedit_lifelong.hyperparams import hparams_folders
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.runs.checks import RunResult
from easyedit_lifelong.runs.engine import CONSECUTIVE
from easyedit_lifelong.runs.experiment import PROTOCOLS, Data, Experiment
from easyedit_lifelong.runs.hyperparameter_files import load_hparams, replaced
from easyedit_lifelong.runs.schedule import Schedule

METHOD, MODEL = "CoachHook", "smollm2-135m"
DATA, SAMPLE = COUNTERFACT, 100

FIELDS = {
    "stats_dir": "stats_dir", "model": "model_name", "bsz": "batch_size", "mom2_update_weight": "mom2_update_weight",
    "alpha_z": "alpha_z", "num_layers": "num_layers", "wohk": "wohk", "device": "device",
}  # fmt: skip
"""The options that set a hyperparameter, and which."""


@dataclass(frozen=True)
class Options:
    """What the command line asks for; None leaves it to the hyperparameter file.

    ``given`` holds the options of :data:`FIELDS`; the other names are those of the command line.
    """

    given: Mapping[str, Any] = field(default_factory=dict)
    method: str | None = None
    hparams: str | None = None
    ds_dir: Path = DATA
    format: str | None = None
    sample: int = SAMPLE
    consecutive: bool = True
    edit_with: int = 0
    schedule: Schedule = field(default_factory=Schedule)
    out: Path | None = None
    resume: bool = False
    retention: str | None = None
    text: str | None = None
    task: str | None = None
    skip_unusable: bool = False
    trackers: Sequence[str] = ()


def consecutive_session(options: Options) -> RunResult:
    """Run the consecutive-batch loop as the command line asks; everything is checked before the model loads.

    Raises:
        LifelongError: something asked for can't be had.
    """
    hparams = hyperparameters(options)
    experiment = Experiment(
        CONSECUTIVE, hparams, Data(str(options.ds_dir), options.format, options.sample, options.edit_with),
        retention=options.retention, text=options.text, task=options.task,
        skip_unusable=options.skip_unusable, protocol=PROTOCOLS[0 if options.consecutive else 1],
        schedule=options.schedule, trackers=options.trackers,
    )  # fmt: skip
    return session(experiment, options.out or default_folder(hparams, options.ds_dir), options.resume)


def hyperparameters(options: Options) -> Any:
    """Return the hyperparameters that the options mean: a file's, with what is given in place of its values.

    Raises:
        HyperParameterError: there is no such file, or the method has no such hyperparameter.
        PluginError: there is no such method.
    """
    given = {name: value for name, value in options.given.items() if value is not None}
    if options.hparams is not None:
        file = options.hparams
    else:
        method = options.method or METHOD
        _check_method(method)
        model = str(given.get("model", MODEL))
        file = str(shipped_hparams(method, model))
        if "/" not in model:  # a mere name of the file, which knows the model's name in full
            given.pop("model", None)
    hparams = load_hparams(file, easyedits=True)
    if options.method is not None and hparams.alg_name != options.method:
        raise HyperParameterError(f"--method {options.method}: {file} is for {hparams.alg_name!r}")
    return replaced(
        hparams, {FIELDS[option]: value for option, value in given.items()},
        {FIELDS[option]: f"--{option}" for option in given},
    )  # fmt: skip


def _check_method(name: str) -> None:
    methods = get_plugins().methods
    if name in methods:
        return
    try:
        bridge.easyedit_method(name)
    except LifelongError as error:
        known = [method.name for method in methods]
        raise PluginError(
            f"--method {name}: no editing method of that name is registered ({', '.join(known)})."
            f"{did_you_mean(name, known)} {error}"
        ) from error


def shipped_hparams(method: str, model: str) -> Path:
    """Return the hyperparameter file that ships for a method and a model.

    A model may be named in full (``EleutherAI/gpt-j-6B``) or by a folder; its last part counts, in
    capitals or not.

    Raises:
        HyperParameterError: there is none; the message says what there is.
    """
    files = {file.stem: file for folder in hparams_folders() for file in sorted((folder / method).glob("*.yaml"))}
    wanted = model.rstrip("/").rpartition("/")[2].casefold()
    for stem, file in files.items():
        if stem.casefold() == wanted:
            return file
    raise HyperParameterError(
        f"--model {model}: no hyperparameters of {method} ship for it ({', '.join(files) or 'none at all'})."
        f"{did_you_mean(wanted, files)} Write a file and name it with --hparams."
    )


def default_folder(hparams: Any, data: Path) -> Path:
    """Return where results go if nobody says: one folder for each method, model and data file."""
    name = hparams.model_name if isinstance(hparams.model_name, str) else "model"
    model = name.rstrip("/").rpartition("/")[2] or "model"
    return Path("runs/consecutive") / f"{hparams.alg_name}-{model}-{data.stem}"
