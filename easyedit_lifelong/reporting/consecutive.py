"""A consecutive-batch run from the command line, with the arguments of the authors' script."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from easyedit_lifelong import bridge
from easyedit_lifelong.data.readers import read_requests
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.samples import COUNTERFACT
from easyedit_lifelong.errors import HyperParameterError, LifelongError, PluginError, did_you_mean
from easyedit_lifelong.hyperparams import find_hparams, hparams_folders, read_hparams_file
from easyedit_lifelong.lifelong.batches import Plan
from easyedit_lifelong.lifelong.common import find_method
from easyedit_lifelong.lifelong.consecutive import ConsecutiveResult, run_consecutive
from easyedit_lifelong.lifelong.folder import check_free, check_resumable
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.reporting.progress import edit_progress
from easyedit_lifelong.reporting.session import load_for, load_hparams, read_retention
from easyedit_lifelong.reporting.tables import closing_line, score_table

METHOD, MODEL = "CoachHook", "smollm2-135m"
DATA, SAMPLE = COUNTERFACT, 100

FIELDS = {
    "stats_dir": "stats_dir", "model": "model_name", "bsz": "batch_size", "mom2_update_weight": "mom2_update_weight",
    "alpha_z": "alpha_z", "num_layers": "num_layers", "wohk": "wohk", "device": "device",
}  # fmt: skip
"""The options that set a hyperparameter, and which."""

_ZSRE, _COUNTERFACT = {"src", "alt", "loc"}, {"prompt", "target_new", "ground_truth", "locality_prompt"}


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
    eval_every: int | None = None
    out: Path | None = None
    resume: bool = False
    retention: Path | None = None
    skip_unusable: bool = False
    trackers: Sequence[str] = ()


def consecutive_session(options: Options) -> ConsecutiveResult:
    """Run the consecutive-batch loop as the command line asks; everything is checked before the model loads.

    Raises:
        LifelongError: something asked for can't be had.
    """
    console = Console()
    hparams = hyperparameters(options)
    out = options.out or default_folder(hparams, options.ds_dir)
    plan = Plan(find_method(hparams), None, hparams, hparams.batch_size, 1, options.consecutive)
    plan.check(out, options.resume)
    if options.resume:
        check_resumable(out)
    else:
        check_free(out, resumable=True)
    for tracker in options.trackers:
        get_plugins().trackers.get(tracker)
    requests = read_data(options.ds_dir, options.format)[: options.sample]
    held_out = read_retention(options.retention) if options.retention else None
    protocol = "consecutive" if options.consecutive else "single-round"
    console.print(
        f"{hparams.alg_name} on {hparams.model_name}: {len(requests)} edits from {options.ds_dir}, {protocol}, "
        f"{hparams.batch_size} a batch",
        highlight=False, markup=False,
    )  # fmt: skip
    model, tokenizer = load_for(hparams)
    with edit_progress(console, len(requests)) as progress:
        result = run_consecutive(
            model, tokenizer, requests, hparams, consecutive=options.consecutive, eval_every=options.eval_every,
            out=out, retention=held_out, trackers=options.trackers, progress=progress, data_name=str(options.ds_dir),
            resume=options.resume, skip_unusable=options.skip_unusable,
        )  # fmt: skip
    _show(console, result, out)
    return result


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
    hparams = load_any_hparams(file)
    if options.method is not None and hparams.alg_name != options.method:
        raise HyperParameterError(f"--method {options.method}: {file} is for {hparams.alg_name!r}")
    known = {item.name for item in dataclasses.fields(hparams)}
    for option in given:
        if FIELDS[option] not in known:
            raise HyperParameterError(f"--{option}: {hparams.alg_name} has no hyperparameter {FIELDS[option]!r}")
    try:
        return dataclasses.replace(hparams, **{FIELDS[option]: value for option, value in given.items()})
    except HyperParameterError as error:
        said = ", ".join(f"--{option} {value}" for option, value in given.items())
        raise HyperParameterError(f"{error} (with {said} in place of the file's)") from error


def load_any_hparams(name_or_path: str | Path) -> Any:
    """Read a hyperparameter file of a registered method, or of one of EasyEdit's own.

    Raises:
        HyperParameterError: the file can't be used.
        PluginError: no method of that name is registered, nor does EasyEdit have one that could run here.
    """
    path = find_hparams(name_or_path)
    name = read_hparams_file(path).get("alg_name")
    if not isinstance(name, str) or name in get_plugins().methods:
        return load_hparams(path)
    try:
        return bridge.read_easyedit_hparams(path, name)
    except PluginError as error:
        raise HyperParameterError(f"{path}: alg_name: {error}") from error


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


def read_data(path: Path, data_format: str | None) -> list[EditRequest]:
    """Read a dataset file, guessing its format if none is given.

    Raises:
        DataError: the file can't be used.
        PluginError: there is no such format.
    """
    reader = get_plugins().readers.get(data_format or guess_format(path))
    return read_requests(path, reader.read)


def guess_format(path: Path) -> str:
    """Return the format of a dataset file: by the fields of its first record, else by its name, as the authors do."""
    try:
        text = path.expanduser().read_text(encoding="utf-8")
        records = json.loads(text.split("\n", 1)[0] if path.suffix == ".jsonl" else text)
    except (OSError, ValueError):
        records = None  # the reader will say so
    first = records[0] if isinstance(records, list) and records else records
    fields = set(first) if isinstance(first, dict) else set()
    if path.suffix == ".jsonl":
        return "json"  # EasyEdit's loaders read JSON lists only
    if fields >= _ZSRE:
        return "zsre"
    if fields:
        return "counterfact" if "counterfact" in path.name.lower() and fields >= _COUNTERFACT else "json"
    name = path.name.lower()
    return next((known for known in ("counterfact", "zsre") if known in name), "json")


def default_folder(hparams: Any, data: Path) -> Path:
    """Return where results go if nobody says: one folder for each method, model and data file."""
    name = hparams.model_name if isinstance(hparams.model_name, str) else "model"
    model = name.rstrip("/").rpartition("/")[2] or "model"
    return Path("runs/consecutive") / f"{hparams.alg_name}-{model}-{data.stem}"


def _show(console: Console, result: ConsecutiveResult, out: Path) -> None:
    summary = result.summary
    score_table(console, result.metrics, f"\n{summary['method']}, {summary['n_edits']} edits, {summary['protocol']}")
    for left_out in summary["skipped"]:
        console.print(f"left out: {left_out['reason']}", highlight=False, markup=False)
    closing_line(console, summary, out)
