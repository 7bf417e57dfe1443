"""A lifelong run from the command line: read everything, run, show."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from easyedit_lifelong.data.readers import read_requests
from easyedit_lifelong.data.request import Probe
from easyedit_lifelong.errors import DataError, HyperParameterError, PluginError
from easyedit_lifelong.hyperparams import find_hparams, read_hparams_file
from easyedit_lifelong.lifelong.folder import check_free
from easyedit_lifelong.lifelong.loop import run_lifelong
from easyedit_lifelong.models.load import load_model
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.reporting.progress import edit_progress
from easyedit_lifelong.reporting.tables import closing_line, score_table


def load_hparams(name_or_path: str | Path) -> Any:
    """Read a hyperparameter file with the class of the method that it names.

    Raises:
        HyperParameterError: the file can't be used, or names no registered method.
        PluginError: no method of that name is registered.
    """
    path = find_hparams(name_or_path)
    name = read_hparams_file(path).get("alg_name")
    if not isinstance(name, str):
        raise HyperParameterError(f"{path}: alg_name: missing; it says which method these are for")
    try:
        method = get_plugins().methods.get(name)
    except PluginError as error:
        raise HyperParameterError(f"{path}: alg_name: {error}") from error
    return method.hparams_class.from_hparams(path)  # type: ignore[attr-defined]


def load_for(hparams: Any) -> tuple[Any, Any]:
    """Return the model and tokenizer that hyperparameters name; those of EasyEdit's own classes know less."""
    if not isinstance(hparams.model_name, str):
        return tuple(hparams.model_name)
    return load_model(
        hparams.model_name, hparams.device, getattr(hparams, "dtype", None),
        model_parallel=bool(getattr(hparams, "model_parallel", False)),
        trust_remote_code=bool(getattr(hparams, "trust_remote_code", False)),
    )  # fmt: skip


def read_retention(path: Path) -> list[Probe]:
    """Read held-out facts: a JSON list of ``{"prompt": …, "answer": …}``.

    Raises:
        DataError: the file can't be used.
    """
    path = path.expanduser()
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such retention file") from error
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not valid JSON: {error.msg} (line {error.lineno})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text: {error.reason} at byte {error.start}") from error
    if not isinstance(records, list):
        raise DataError(f"{path}: must hold a list of facts")
    if not records:
        raise DataError(f"{path}: holds no facts")
    for index, record in enumerate(records):
        for field in ("prompt", "answer"):
            value = record.get(field) if isinstance(record, dict) else None
            if not isinstance(value, str) or not value.strip():
                raise DataError(f"{path}, record {index}, field {field!r}: is missing, empty or not text")
    return [Probe(record["prompt"], record["answer"]) for record in records]


def lifelong_session(
    *,
    hparams_file: str,
    data: Path,
    data_format: str,
    edits: int | None,
    eval_every: int,
    out: Path,
    only_errors: bool,
    retention: Path | None,
    model: str | None,
    device: str | None,
    trackers: Sequence[str],
) -> None:
    """Run the lifelong loop as the command line asks; everything is checked before the model loads.

    Raises:
        LifelongError: something asked for can't be had.
    """
    console = Console()
    hparams = load_hparams(hparams_file)
    given = {"model_name": model, "device": device}
    hparams = dataclasses.replace(hparams, **{name: value for name, value in given.items() if value is not None})
    plugins = get_plugins()
    reader = plugins.readers.get(data_format)
    for tracker in trackers:
        plugins.trackers.get(tracker)
    requests = read_requests(data, reader.read)[:edits]
    held_out = read_retention(retention) if retention else None
    check_free(out)
    console.print(
        f"{hparams.alg_name} on {hparams.model_name}: {len(requests)} edits from {data}", highlight=False, markup=False
    )
    language_model, tokenizer = load_for(hparams)
    with edit_progress(console, len(requests)) as progress:
        result = run_lifelong(
            language_model, tokenizer, requests, hparams, eval_every=eval_every, out=out, only_errors=only_errors,
            retention=held_out, trackers=trackers, progress=progress, data_name=str(data),
        )  # fmt: skip
    summary = result.summary
    score_table(console, result.metrics, f"\n{summary['method']}, {summary['n_edits']} edits")
    closing_line(console, summary, out)
