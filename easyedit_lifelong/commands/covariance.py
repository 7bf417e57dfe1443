"""The command ``covariance``: collect second moments of keys, or merge files of second moments."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from easyedit_lifelong.covariance.corpus import check_obtainable, find_corpus
from easyedit_lifelong.covariance.derive import merge_moments
from easyedit_lifelong.covariance.identity import read_sidecar
from easyedit_lifelong.covariance.key_modules import layer_modules
from easyedit_lifelong.covariance.moment_paths import stats_folder
from easyedit_lifelong.covariance.moments import SecondMoment, regularisation
from easyedit_lifelong.covariance.npz import check_writable
from easyedit_lifelong.covariance.obtain import DTYPES, obtain_moments
from easyedit_lifelong.covariance.shards import torchrun_processes
from easyedit_lifelong.errors import CovarianceError, HyperParameterError
from easyedit_lifelong.hparams_files import find_hparams, read_hparams_file
from easyedit_lifelong.models.devices import resolve_device
from easyedit_lifelong.models.load import load_model, resolve_dtype
from easyedit_lifelong.number_ranges import parse_layers
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.plurals import counted
from easyedit_lifelong.reporting.console_tables import plain_table
from easyedit_lifelong.reporting.progress import count_progress
from easyedit_lifelong.reporting.terminal import Console
from easyedit_lifelong.runs.hyperparameter_files import load_hparams


def run(arguments: argparse.Namespace) -> int:
    """Collect second moments, or merge files of them.

    Raises:
        LifelongError: an input can't be used.
    """
    if arguments.merge:
        _merge(arguments)
    else:
        _collect(arguments)
    return 0


def _collect(arguments: argparse.Namespace) -> None:
    """Collect second moments; check all inputs before the model is loaded."""
    values = _file_values(arguments.hparams)
    model_name = arguments.model or values.get("model_name")
    layers = _layers(arguments.layers, values)
    if not isinstance(model_name, str):
        raise CovarianceError("give --model, or --hparams with a model_name")
    dtype = arguments.dtype or values.get("mom2_dtype") or "float32"
    if dtype not in DTYPES:
        raise CovarianceError(f"dtype: {dtype!r} can't hold sums of second moments; use one of {', '.join(DTYPES)}")
    dataset = arguments.corpus or values.get("mom2_dataset") or "self"
    corpus = find_corpus(dataset)
    n_samples, n_tokens = _amount(arguments, values)
    engine = arguments.engine or values.get("mom2_engine") or "native"
    get_plugins().covariance_engines.get(engine).check(corpus, n_samples, n_tokens)
    folder = stats_folder(arguments.out or values.get("stats_dir"))
    check_writable(folder)
    with torchrun_processes() as is_first:
        console = Console(quiet=not is_first)
        device = _device(arguments.device if arguments.device is not None else values.get("device"))
        resolve_device(device)
        resolve_dtype(values.get("dtype"))
        check_obtainable(corpus)
        corpus_name = "text sampled from the model itself" if corpus.label == "self-sampled" else corpus.label
        line = f"Second moments of {model_name}, {counted(len(layers), 'layer')}, on {corpus_name}"
        console.print(line, highlight=False)
        model, tokenizer = load_model(
            model_name,
            device,
            values.get("dtype"),
            model_parallel=bool(values.get("model_parallel")),
            trust_remote_code=bool(values.get("trust_remote_code")),
        )
        modules = layer_modules(model, layers, values.get("rewrite_module_tmp") or None)
        began = time.monotonic()
        with count_progress(console, "collecting") as progress:
            moments = obtain_moments(
                model,
                tokenizer,
                modules,
                stats_dir=folder,
                dataset=dataset,
                n_samples=n_samples,
                n_tokens=n_tokens,
                dtype=dtype,
                seed=arguments.seed,
                context=arguments.context,
                progress=progress,
                easyedit_samples=arguments.easyedit_samples,
                engine=engine,
            )
        _show(console, moments, time.monotonic() - began)


def _merge(arguments: argparse.Namespace) -> None:
    """Merge files of second moments."""
    if arguments.out is None:
        raise CovarianceError("--merge: give the merged file with --out FILE.npz")
    moment = merge_moments(arguments.merge, arguments.out)
    Console().print(f"{moment.count} tokens of {len(arguments.merge)} files: {moment.source}", highlight=False)


def _file_values(name: str | None) -> Mapping[str, Any]:
    """Return the values of a hyperparameter file; empty without a file.

    If the file's method is registered, all values are checked; else those that this command uses.
    """
    if name is None:
        return {}
    path = find_hparams(name)
    values = read_hparams_file(path)
    if values.get("alg_name") in get_plugins().methods.names():
        return load_hparams(path).to_dict()
    template = values.get("rewrite_module_tmp")
    if template is not None and (not isinstance(template, str) or template.count("{}") != 1):
        raise HyperParameterError(f"{path}: rewrite_module_tmp: {template!r} must hold one {{}} for the layer's number")
    for key in ("mom2_n_samples", "mom2_n_tokens"):
        if values.get(key) is not None and (not isinstance(values[key], int) or values[key] < 1):
            raise HyperParameterError(f"{path}: {key}: {values[key]!r} is not a whole number greater than 0")
    return values


def _layers(text: str | None, values: Mapping[str, Any]) -> list[int]:
    """Return the layers of the option ``--layers``, else of the hyperparameter file."""
    if text is not None:
        return parse_layers(text)
    layers = values.get("layers")
    if not isinstance(layers, list) or not layers or not all(isinstance(layer, int) for layer in layers):
        raise CovarianceError("give --layers, or --hparams with a list of layers")
    return layers


def _amount(arguments: argparse.Namespace, values: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Return the numbers of samples and of tokens: of the options if one is given, else of the hyperparameter file."""
    if arguments.tokens is not None and arguments.samples is not None:
        raise CovarianceError("give either --tokens or --samples, not both")
    if arguments.tokens is not None or arguments.samples is not None:
        return arguments.samples, arguments.tokens
    return values.get("mom2_n_samples"), values.get("mom2_n_tokens")


def _device(device: Any) -> Any:
    """Return the device of this process. Each process of ``torchrun`` gets its own GPU, unless a device is given."""
    if device in (None, "auto") and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
    return device


def _show(console: Console, moments: Mapping[str, SecondMoment], seconds: float) -> None:
    """Print key size, tokens and time of each layer, and the folder of the files."""
    table = plain_table()
    table.add_column("layer", no_wrap=True)
    for header in ("key size", "tokens", "seconds"):
        table.add_column(header, justify="right")
    for module, moment in moments.items():
        sidecar = read_sidecar(Path(moment.source))
        duration = f"{sidecar['seconds']:.1f}" if sidecar else "published"
        table.add_row(module, str(len(moment.moment)), str(moment.count), duration)
    console.print(table)
    undersampled = [len(m.moment) for m in moments.values() if regularisation(m.count, len(m.moment))]
    if undersampled:
        console.print(
            f"Few tokens for a key size of {max(undersampled)}: editors will regularise the second moments. With four "
            "times as many tokens as the key size, they don't; more tokens improve locality.",
            highlight=False,
        )
    folders = {str(Path(moment.source).parent) for moment in moments.values()}
    console.print(f"{seconds:.1f} s in all. The files are in {', '.join(folders)}", highlight=False)
