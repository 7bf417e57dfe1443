"""The measured sweep of ``locate``: its inputs, its checks, and its table beside the traces."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyedit_lifelong.data.readers import read_requests
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.locate.averages import average_effects
from easyedit_lifelong.locate.layer_rule import LAST_SUBJECT
from easyedit_lifelong.locate.layer_sweep import SCORES, SweptLayer, rank_correlation, sweep_layers
from easyedit_lifelong.locate.restorations import KINDS
from easyedit_lifelong.locate.trace import FactTrace
from easyedit_lifelong.methods.shared.layer_moves import at_layer
from easyedit_lifelong.models.anatomy import anatomy_of
from easyedit_lifelong.plurals import counted
from easyedit_lifelong.reporting.console_tables import plain_table, print_line
from easyedit_lifelong.reporting.terminal import Console
from easyedit_lifelong.runs.hyperparameter_files import find_method, load_hparams
from easyedit_lifelong.runs.inputs import reader_of

SWEEP = "sweep"


@dataclass(frozen=True)
class SweepInputs:
    """What a sweep needs: hyperparameters, requests and layers; None stands for all layers."""

    hparams: Any
    requests: Sequence[EditRequest]
    layers: list[int] | None


def sweep_inputs(arguments: argparse.Namespace) -> SweepInputs | None:
    """Return the checked inputs of the sweep; None if no sweep is wanted.

    Raises:
        LifelongError: an input can't be used.
    """
    if arguments.sweep is None:
        return None
    if arguments.sweep_data is None:
        raise DataError("--sweep needs edit requests: name them with --sweep-data")
    hparams = load_hparams(arguments.sweep)
    offset = arguments.sweep_offset
    read = reader_of(arguments.sweep_data, None).read
    requests = read_requests(arguments.sweep_data, read, limit=offset + arguments.sweep_edits)[offset:]
    if not requests:
        raise DataError(f"{arguments.sweep_data}: holds no requests after the first {offset}")
    return SweepInputs(hparams, requests, arguments.sweep_layers)


def check_sweep(inputs: SweepInputs, model: Any, tokenizer: Any) -> None:
    """Check that the method of a sweep can edit at each layer; call this before the facts are traced, which takes long.

    Raises:
        LifelongError: it can't, or the model has no such layer.
    """
    method = find_method(inputs.hparams)
    for layer in _layers_of(inputs, model):
        hparams = at_layer(inputs.hparams, model, layer)
        if method.check is not None:
            method.check(model, tokenizer, hparams)


def run_sweep(
    console: Console, inputs: SweepInputs, model: Any, tokenizer: Any, traces: Sequence[FactTrace], out: Path
) -> None:
    """Sweep the layers, and print the scores and their correlation with the traces.

    Raises:
        LifelongError: the method can't edit at a layer, or the folder can't be used.
    """
    method = find_method(inputs.hparams)
    layers = _layers_of(inputs, model)
    print_line(
        console,
        f"\nEditing {counted(len(inputs.requests), 'fact')} at each of {counted(len(layers), 'layer')} "
        f"with {method.name}",
    )

    def report(swept: SweptLayer) -> None:
        scores = ", ".join(f"{name} {value:.3f}" for name, value in swept.scores.items())
        print_line(console, f"layer {swept.layer}: {scores}, {swept.n_failed} failed")

    swept = sweep_layers(method, model, tokenizer, inputs.requests, inputs.hparams, layers, out / SWEEP, report=report)
    best = max(swept, key=lambda entry: entry.combined)
    print_line(console, f"Best layer by the harmonic mean of the scores: {best.layer} ({best.combined:.3f})")
    _show_correlations(console, traces, swept)


def _layers_of(inputs: SweepInputs, model: Any) -> list[int]:
    """Return the layers of a sweep: those of the option, or else all of the model."""
    if inputs.layers is not None:
        return inputs.layers
    anatomy = anatomy_of(model)
    return list(range(len(anatomy.blocks))) if anatomy is not None else []


def _show_correlations(console: Console, traces: Sequence[FactTrace], swept: Sequence[SweptLayer]) -> None:
    """Print the rank correlations of average effects and scores over the swept layers."""
    table = plain_table("\nRank correlation over layers, with the average indirect effect of the last subject token")
    table.add_column("restored")
    columns = [name for name in SCORES if all(name in entry.scores for entry in swept)]
    for name in [*columns, "harmonic mean"]:
        table.add_column(name, justify="right")
    for kind in KINDS:
        if kind not in traces[0].scores:
            continue
        effects = average_effects(traces, kind)[LAST_SUBJECT].means
        at_layers = [effects[entry.layer] for entry in swept]
        series = [[entry.scores[name] for entry in swept] for name in columns] + [[entry.combined for entry in swept]]
        correlations = [rank_correlation(at_layers, values) for values in series]
        table.add_row(kind, *("-" if value is None else f"{value:+.2f}" for value in correlations))
    console.print(table)
