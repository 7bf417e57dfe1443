"""Second moments from the command line: check everything, collect, show."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from easyedit_lifelong.commands.run_session import load_hparams
from easyedit_lifelong.covariance.corpus import check_obtainable, find_corpus
from easyedit_lifelong.covariance.derive import merge_moments
from easyedit_lifelong.covariance.files import stats_folder
from easyedit_lifelong.covariance.identity import read_sidecar
from easyedit_lifelong.covariance.layers import layer_modules
from easyedit_lifelong.covariance.moments import SecondMoment, regularisation
from easyedit_lifelong.covariance.npz import check_writable
from easyedit_lifelong.covariance.obtain import DTYPES, obtain_moments
from easyedit_lifelong.covariance.shards import torchrun_processes
from easyedit_lifelong.errors import CovarianceError, HyperParameterError
from easyedit_lifelong.hyperparams import find_hparams, read_hparams_file
from easyedit_lifelong.models.devices import resolve_device
from easyedit_lifelong.models.load import load_model, resolve_dtype
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.reporting.progress import count_progress


def parse_layers(text: str) -> list[int]:
    """Return the layers that ``3-7,9`` means.

    Raises:
        CovarianceError: it means none.
    """
    layers: list[int] = []
    for part in text.replace(" ", "").split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise CovarianceError(f"layers: {text!r} isn't a list of layers such as 13-17 or 3-7,9")
        layers += range(int(first), int(last or first) + 1)
    return list(dict.fromkeys(layers))


@dataclass(frozen=True)
class Options:
    """What the command line says; None where it says nothing.

    Attributes:
        model: model name or folder.
        layers: as :func:`parse_layers` reads them.
        corpus: see :func:`~easyedit_lifelong.covariance.corpus.find_corpus`.
        tokens: how many tokens to read.
        samples: how many documents instead.
        out: folder of statistics.
        hparams: hyperparameter file to take what isn't said from.
        dtype: of the stored sums.
        device: where the model goes.
        seed: of the order of documents, or of the sampling.
        context: longest row of tokens.
        easyedit_samples: also store under the name that EasyEdit looks for.
        engine: what collects.
    """

    model: str | None = None
    layers: str | None = None
    corpus: str | None = None
    tokens: int | None = None
    samples: int | None = None
    out: Path | None = None
    hparams: str | None = None
    dtype: str | None = None
    device: str | None = None
    seed: int = 0
    context: int | None = None
    easyedit_samples: int | None = None
    engine: str | None = None


def covariance_session(options: Options) -> None:
    """Collect second moments as the command line asks; everything is checked before the model loads.

    Raises:
        LifelongError: something asked for can't be had.
    """
    values = _file_values(options.hparams)
    model_name, layers = options.model or values.get("model_name"), _layers(options, values)
    if not isinstance(model_name, str):
        raise CovarianceError("give --model, or --hparams with a model_name")
    dtype = options.dtype or values.get("mom2_dtype") or "float32"
    if dtype not in DTYPES:
        raise CovarianceError(f"dtype: {dtype!r} can't hold sums of second moments; use one of {', '.join(DTYPES)}")
    dataset = options.corpus or values.get("mom2_dataset") or "self"
    corpus = find_corpus(dataset)
    n_samples, n_tokens = _amount(options, values)
    engine = options.engine or values.get("mom2_engine") or "native"
    get_plugins().covariance_engines.get(engine).check(corpus, n_samples, n_tokens)
    folder = stats_folder(options.out or values.get("stats_dir"))
    check_writable(folder)
    with torchrun_processes() as first:
        console = Console(quiet=not first)
        device = _device(options.device if options.device is not None else values.get("device"))
        resolve_device(device)
        resolve_dtype(values.get("dtype"))
        check_obtainable(corpus)
        console.print(
            f"Second moments of {model_name}, {len(layers)} layers, on {_text_of(corpus.label)}",
            highlight=False, markup=False,
        )  # fmt: skip
        model, tokenizer = load_model(
            model_name, device, values.get("dtype"), model_parallel=bool(values.get("model_parallel")),
            trust_remote_code=bool(values.get("trust_remote_code")),
        )  # fmt: skip
        modules = layer_modules(model, layers, values.get("rewrite_module_tmp") or None)
        began = time.monotonic()
        with count_progress(console, "collecting") as progress:
            moments = obtain_moments(
                model, tokenizer, modules, stats_dir=folder, dataset=dataset, n_samples=n_samples, n_tokens=n_tokens,
                dtype=dtype, seed=options.seed, context=options.context,
                progress=progress, easyedit_samples=options.easyedit_samples, engine=engine,
            )  # fmt: skip
        _table(console, moments, time.monotonic() - began)


def merge_session(files: Sequence[Path], out: Path | None) -> None:
    """Merge files of second moments as the command line asks.

    Raises:
        CovarianceError: they can't be merged.
    """
    if out is None:
        raise CovarianceError("--merge: give the merged file with --out FILE.npz")
    moment = merge_moments(files, out)
    Console().print(f"{moment.count} tokens of {len(files)} files: {moment.source}", highlight=False, markup=False)


def _file_values(name: str | None) -> Mapping[str, Any]:
    """Read a hyperparameter file: strictly if its method is registered, else as it is (EasyEdit's MEMIT)."""
    if name is None:
        return {}
    path = find_hparams(name)
    values = read_hparams_file(path)
    if values.get("alg_name") in {method.name for method in get_plugins().methods}:
        return load_hparams(path).to_dict()
    template = values.get("rewrite_module_tmp")
    if template is not None and (not isinstance(template, str) or template.count("{}") != 1):
        raise HyperParameterError(f"{path}: rewrite_module_tmp: {template!r} must hold one {{}} for the layer's number")
    for key in ("mom2_n_samples", "mom2_n_tokens"):
        if values.get(key) is not None and (not isinstance(values[key], int) or values[key] < 1):
            raise HyperParameterError(f"{path}: {key}: {values[key]!r} is not a whole number greater than 0")
    return values


def _layers(options: Options, values: Mapping[str, Any]) -> list[int]:
    if options.layers is not None:
        return parse_layers(options.layers)
    layers = values.get("layers")
    if not isinstance(layers, list) or not layers or not all(isinstance(layer, int) for layer in layers):
        raise CovarianceError("give --layers, or --hparams with a list of layers")
    return layers


def _amount(options: Options, values: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Return the numbers of samples and of tokens; what the command line says replaces both of the file's."""
    if options.tokens is not None and options.samples is not None:
        raise CovarianceError("give either --tokens or --samples, not both")
    if options.tokens is not None or options.samples is not None:
        return options.samples, options.tokens
    return values.get("mom2_n_samples"), values.get("mom2_n_tokens")


def _device(device: Any) -> Any:
    """Give every process of a machine a GPU of its own, unless a device was asked for."""
    if device in (None, "auto") and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
    return device


def _text_of(label: str) -> str:
    return "text sampled from the model itself" if label == "self-sampled" else label


def _table(console: Console, moments: Mapping[str, SecondMoment], seconds: float) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    for header in ("key size", "tokens", "seconds"):
        table.add_column(header, justify="right")
    for module, moment in moments.items():
        sidecar = read_sidecar(Path(moment.source))
        spent = f"{sidecar['seconds']:.1f}" if sidecar else "published"
        d = len(moment.moment)
        table.add_row(module, str(d), str(moment.count), spent)
    console.print(table)
    few = [len(m.moment) for m in moments.values() if regularisation(m.count, len(m.moment))]
    if few:
        console.print(
            f"Few tokens for a key size of {max(few)}: editors will regularise. Four times the key size needs none; "
            "more tokens protect locality.",
            highlight=False,
        )
    folders = {str(Path(moment.source).parent) for moment in moments.values()}
    console.print(f"{seconds:.1f} s in all. The files are in {', '.join(folders)}", highlight=False, markup=False)
