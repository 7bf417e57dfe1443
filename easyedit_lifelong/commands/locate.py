"""The command ``locate``: find where a model keeps facts, by causal tracing, and which layers to edit."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from easyedit_lifelong.commands.locate_sweep import check_sweep, run_sweep, sweep_inputs
from easyedit_lifelong.errors import DataError, RunError
from easyedit_lifelong.locate.averages import ROLES, average_effects, average_total_effect
from easyedit_lifelong.locate.known_facts import KnownFact, read_known_facts
from easyedit_lifelong.locate.layer_rule import suggest_layers
from easyedit_lifelong.locate.restorations import KINDS, MODULES
from easyedit_lifelong.locate.suggested_hparams import (
    check_suggestible,
    suggest_hparams,
    write_suggested_hparams,
)
from easyedit_lifelong.locate.trace import FactTrace
from easyedit_lifelong.locate.trace_facts import trace_facts
from easyedit_lifelong.locate.trace_folder import TRACED, TraceFolder, check_trace_folder
from easyedit_lifelong.locate.trace_settings import TraceSettings
from easyedit_lifelong.models.devices import resolve_device
from easyedit_lifelong.models.load import load_model, resolve_dtype
from easyedit_lifelong.paths import check_output_file, expanded_path
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.plurals import counted
from easyedit_lifelong.reporting.console_tables import plain_table, print_line
from easyedit_lifelong.reporting.report.page_files import write_page
from easyedit_lifelong.reporting.report.style import figure_options
from easyedit_lifelong.reporting.report.trace_page import layer_sentences, peak_text, trace_page
from easyedit_lifelong.reporting.terminal import Console

PAGE = "report.html"
_FIGURES = "report"


def run(arguments: argparse.Namespace) -> int:
    """Trace the facts, print what the traces say about the layers, and write a page.

    Raises:
        LifelongError: an input can't be used.
    """
    console = Console()
    facts = _facts(arguments)
    settings = _settings(arguments)
    method = None if arguments.suggest is None else get_plugins().methods.get(arguments.suggest)
    if method is not None:
        check_suggestible(method)
        if arguments.hparams_out is not None:
            check_output_file(expanded_path(arguments.hparams_out, RunError), RunError)
    sweep = sweep_inputs(arguments)
    check_trace_folder(arguments.out, arguments.resume)
    resolve_device(arguments.device)
    resolve_dtype(arguments.dtype)
    print_line(console, f"Tracing facts in {arguments.model}, at most {arguments.limit} of {len(facts)}")
    model, tokenizer = load_model(arguments.model, arguments.device, arguments.dtype)
    if sweep is not None:
        check_sweep(sweep, model, tokenizer)
    counts = trace_facts(
        model,
        tokenizer,
        facts,
        arguments.out,
        settings,
        limit=arguments.limit,
        resume=arguments.resume,
        report=lambda done, total, line: print_line(console, f"{done}/{total}  {line}"),
    )
    print_line(
        console, f"{counted(counts.traced, 'fact')} traced, {counts.unknown} not known, {counts.skipped} skipped"
    )
    if not counts.traced:
        raise DataError("no fact was traced, since the model knows none. --any-answer traces facts it doesn't know.")
    folder = TraceFolder(counts.folder)
    traces = list(folder.traces())
    _show(console, traces)
    page = write_trace_report(folder, traces)
    print_line(console, f"Results: {counts.folder}/   Report: {page}")
    if method is not None:
        file = arguments.hparams_out or counts.folder / f"{method.name}.yaml"
        write_suggested_hparams(file, suggest_hparams(method, model, suggest_layers(traces)))
        print_line(console, f"Suggested hyperparameters of {method.name}: {file}")
    if sweep is not None:
        run_sweep(console, sweep, model, tokenizer, traces, counts.folder)
    return 0


def write_trace_report(folder: TraceFolder, traces: Sequence[FactTrace]) -> Path:
    """Write the page of a tracing and, beside it, its figures; return the page.

    Raises:
        RunError: a file can't be written.
    """
    page = folder.path / _FIGURES / PAGE
    statuses = Counter(folder.statuses().values())
    with figure_options():
        html, plots = trace_page(traces, {TRACED: statuses[TRACED], **statuses}, folder.settings())
        write_page(page, html, plots)
    return page


def _facts(arguments: argparse.Namespace) -> list[KnownFact]:
    """Return the facts of the file, or the fact of the command line.

    Raises:
        DataError: the arguments name neither, or both.
    """
    single = {"--prompt": arguments.prompt, "--subject": arguments.subject, "--answer": arguments.answer}
    if arguments.data is not None and not any(single.values()):
        return read_known_facts(expanded_path(arguments.data, DataError))
    missing = [option for option, value in single.items() if not value]
    if arguments.data is not None or missing:
        raise DataError("name facts with --data FILE, or one fact with --prompt, --subject and --answer")
    return [KnownFact(0, arguments.prompt, arguments.subject, arguments.answer, where="the command line")]


def _settings(arguments: argparse.Namespace) -> TraceSettings:
    """Return the settings of the tracing.

    Raises:
        DataError: a kind isn't known, or options contradict each other.
    """
    severed = () if arguments.severed == ("none",) else tuple(arguments.severed)
    for option, given, known in (("--kinds", arguments.kinds, KINDS), ("--severed", severed, MODULES)):
        unknown = [name for name in given if name not in known]
        if unknown:
            raise DataError(f"{option}: {unknown[0]!r} isn't known. Use {', '.join(known)}.")
    if arguments.replace_subject and arguments.noise is not None:
        raise DataError("--replace-subject adds no noise; leave out --noise")
    return TraceSettings(
        corruption="subjects" if arguments.replace_subject else "noise",
        noise=arguments.noise,
        noise_factor=arguments.noise_factor,
        samples=arguments.samples,
        seed=arguments.seed,
        kinds=tuple(arguments.kinds),
        severed=severed,
        window=arguments.window,
        any_answer=arguments.any_answer,
    )


def _show(console: Console, traces: Sequence[FactTrace]) -> None:
    """Print the layers with the largest average effects, and the suggested layers."""
    kinds = [kind for kind in KINDS if kind in traces[0].scores]
    title = f"\nAverage total effect {average_total_effect(traces):.3f}. Layer with the largest indirect effect:"
    table = plain_table(title)
    table.add_column("restored token")
    for kind in kinds:
        table.add_column(kind, justify="right")
    averages = {kind: average_effects(traces, kind) for kind in kinds}
    for role in ROLES:
        table.add_row(role, *(peak_text(averages[kind].get(role)) for kind in kinds))
    console.print(table)
    for sentence in layer_sentences(suggest_layers(traces)):
        print_line(console, sentence)
