"""A run from the command line or an experiment file, in either loop: read everything, run, show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from easyedit_lifelong.data import hub_datasets as hub
from easyedit_lifelong.data.guess import guess_format
from easyedit_lifelong.data.holdout import split_rephrasings
from easyedit_lifelong.data.readers import read_requests
from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.data.retention import read_retention
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.evaluation.text import read_text
from easyedit_lifelong.models.load import load_named
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.registry import DatasetReader
from easyedit_lifelong.reporting.console_tables import closing_line, score_table
from easyedit_lifelong.reporting.progress import edit_progress
from easyedit_lifelong.runs.checks import RunResult, find_method
from easyedit_lifelong.runs.consecutive import run_consecutive
from easyedit_lifelong.runs.engine import CONSECUTIVE, LIFELONG, Plan
from easyedit_lifelong.runs.experiment import SAMPLES, Data, Experiment, find_experiment, read_experiment
from easyedit_lifelong.runs.hyperparameter_files import load_hparams, make_hparams, replaced
from easyedit_lifelong.runs.lifelong import run_lifelong
from easyedit_lifelong.runs.run_config import Source, file_digest
from easyedit_lifelong.runs.run_folder import CONFIG, check_free, check_resumable


def file_session(name_or_path: str, out: Path | None, resume: bool) -> RunResult:
    """Do the run that an experiment file describes.

    Args:
        name_or_path: the file, or the name of one that comes with this package.
        out: folder for the results. By default, that of the run when a run's own ``config.yaml`` is resumed,
            else one named like the file.
        resume: go on with the run there that was cut short.

    Raises:
        LifelongError: something asked for can't be had.
    """
    file = find_experiment(name_or_path)
    experiment = read_experiment(file)
    own = file.name == CONFIG
    if out is None:
        name = f"{file.resolve().parent.name}-again" if own else file.stem
        out = file.parent if own and resume else Path("runs") / name
    return session(experiment, out, resume)


def session(experiment: Experiment, out: Path, resume: bool = False) -> RunResult:
    """Do a run; everything is checked before the model loads.

    Raises:
        LifelongError: something asked for can't be had.
    """
    console = Console()
    hparams = hyperparameters_of(experiment)
    plan = _plan(experiment, hparams)
    plan.check(out, resume)
    if resume:
        check_resumable(out)
    else:
        check_free(out, resumable=plan.resumable)
    for tracker in experiment.trackers:
        get_plugins().trackers.get(tracker).check()
    reader = reader_of(experiment.data.path, experiment.data.format)
    requests = _read(experiment, reader, plan.seed)
    held_out = _held_out(experiment)
    text = _text(experiment)
    batches = f", {plan.protocol}, {plan.batch_size} a batch" if plan.loop == CONSECUTIVE else ""
    console.print(
        f"{hparams.alg_name} on {hparams.model_name}: {len(requests)} edits from {experiment.data.path}{batches}",
        highlight=False, markup=False,
    )  # fmt: skip
    model, tokenizer = load_for(hparams)
    schedule = experiment.schedule
    own: dict[str, Any] = {"only_errors": experiment.only_errors}
    if plan.loop == CONSECUTIVE:
        own = {
            "batch_size": plan.batch_size, "consecutive": plan.consecutive, "skip_unusable": experiment.skip_unusable,
        }  # fmt: skip
    run = run_consecutive if plan.loop == CONSECUTIVE else run_lifelong
    with edit_progress(console, len(requests)) as progress:
        result = run(
            model, tokenizer, requests, hparams, eval_every=schedule.every, eval_at=schedule.at,
            eval_sample=schedule.sample, out=out, resume=resume, retention=held_out, trackers=experiment.trackers,
            progress=progress, data_name=experiment.data.path, task=experiment.task or reader.task, text=text,
            source=_source(experiment, reader.name), **own,
        )  # fmt: skip
    _show(console, result, out)
    return result


def hyperparameters_of(experiment: Experiment) -> Any:
    """Return the hyperparameters that an experiment means.

    Raises:
        HyperParameterError: they can't be used.
        PluginError: there is no such method.
    """
    given = experiment.hparams
    overrides = {name: value for name, value in experiment.overrides.items() if value is not None}
    keys = {name: "model" if name == "model_name" else name for name in overrides}
    called = {name: experiment.said(key, f"--{key}") for name, key in keys.items()}
    if isinstance(given, dict):
        # Given with the rest: a run's own file may name a model where a program had handed over a loaded one.
        model = {"model_name": overrides.pop("model_name")} if "model_name" in overrides else {}
        hparams = make_hparams({**given, **model}, f"{experiment.source}, hparams", easyedits=True)
    elif isinstance(given, (str, Path)):
        hparams = load_hparams(given, easyedits=True)
    else:
        hparams = given
    return replaced(hparams, overrides, called) if overrides else hparams


def load_for(hparams: Any) -> tuple[Any, Any]:
    """Return the model and tokenizer that hyperparameters name, or hold.

    Raises:
        ModelError: there is no such model, or it is of a kind that can't be edited.
        DeviceError: the device isn't there.
    """
    return tuple(hparams.model_name) if not isinstance(hparams.model_name, str) else load_named(hparams)


def _plan(experiment: Experiment, hparams: Any) -> Plan:
    size = 1
    if experiment.loop == CONSECUTIVE:
        size = experiment.batch_size if experiment.batch_size is not None else getattr(hparams, "batch_size", 1)
    consecutive = experiment.loop == LIFELONG or experiment.protocol == "consecutive"
    return Plan(
        experiment.loop, find_method(hparams), None, hparams, experiment.schedule, size, consecutive,
        experiment.only_errors,
    )  # fmt: skip


def reader_of(path: Path | str, data_format: str | None) -> DatasetReader:
    """Return what reads a dataset: by its format or, if none is given, by what is in it.

    Raises:
        PluginError: there is no such format.
    """
    return get_plugins().readers.get(data_format or guess_format(path))


def _read(experiment: Experiment, reader: DatasetReader, seed: int) -> list[EditRequest]:
    """Return an experiment's requests.

    Raises:
        DataError: the data can't be used, or aren't those that the experiment names.
    """
    data = experiment.data
    _check_there(experiment, data.path, "data.path", "--data")
    if data.sha256 is not None and not hub.is_name(data.path):
        found = file_digest(Path(data.path))
        if found != data.sha256.lower():
            raise DataError(
                f"{experiment.said('data.sha256', '--data')}: {data.path} has the SHA-256 {found}, not {data.sha256}: "
                "these aren't the data that the experiment was made with."
            )
    requests = read_requests(data.path, reader.read)[: data.edits]
    return split_rephrasings(requests, data.edit_with, seed)


def _check_there(experiment: Experiment, path: str, key: str, option: str) -> None:
    if experiment.source and not hub.is_name(path) and not Path(path).is_file():
        raise DataError(
            f"{experiment.said(key, option)}: {path}: no such file, neither beside the experiment file nor in the "
            "current folder"
        )


def _held_out(experiment: Experiment) -> list[Probe] | None:
    if experiment.retention is None:
        return None
    if isinstance(experiment.retention, tuple):
        return []
    _check_there(experiment, experiment.retention, "retention", "--retention")
    return read_retention(experiment.retention)


def _text(experiment: Experiment) -> str | None:
    if experiment.text is None:
        return None
    try:
        return read_text(experiment.text)
    except DataError as error:
        raise DataError(f"{experiment.said('text', '--text')}: {error}") from error


def _source(experiment: Experiment, data_format: str) -> Source:
    """Return where the data come from, as the run's own experiment file is to say it."""
    data = experiment.data
    limits = {"edits": data.edits, **({"edit_with": data.edit_with} if data.edit_with else {})}
    retention: Any = experiment.retention
    return Source(
        {**_file_of(data, data_format), **limits},
        [] if retention == () else retention and _full(retention),
        experiment.text and _full(experiment.text),
    )


def _file_of(data: Data, data_format: str) -> dict[str, Any]:
    sample = next((name for name, path in SAMPLES.items() if data.path == str(path)), None)
    told = {"format": data_format}
    if sample is not None:
        return {"sample": sample, **told}
    digest = {} if hub.is_name(data.path) else {"sha256": file_digest(Path(data.path).expanduser())}
    return {"path": _full(data.path), **told, **digest}


def _full(path: str) -> str:
    return path if hub.is_name(path) else str(Path(path).expanduser().resolve())


def _show(console: Console, result: RunResult, out: Path) -> None:
    summary = result.summary
    protocol = f", {summary['protocol']}" if "protocol" in summary else ""
    score_table(console, result.metrics, f"\n{summary['method']}, {summary['n_edits']} edits{protocol}")
    for left_out in summary.get("skipped", []):
        console.print(f"left out: {left_out['reason']}", highlight=False, markup=False)
    closing_line(console, summary, out)
