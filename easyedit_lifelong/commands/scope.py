"""The command ``scope``: edit a model with CoachHook; record at which tokens the hooks act, as a table and a plot."""

from __future__ import annotations

import argparse
import csv
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from easyedit_lifelong.atomic import atomic_folder
from easyedit_lifelong.commands.consecutive import hparams_from_arguments
from easyedit_lifelong.commands.run_session import load_model_for
from easyedit_lifelong.data.readers import read_requests
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.edits.edits_folder import check_empty
from easyedit_lifelong.errors import EditError, HyperParameterError
from easyedit_lifelong.evaluation.scope import FIGURE_MEANINGS, ScopeStudy
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.hparams_files import hparams_values
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.plurals import counted
from easyedit_lifelong.reporting.console_tables import plain_table
from easyedit_lifelong.reporting.progress import edit_progress
from easyedit_lifelong.reporting.scope_plot import scope_svg
from easyedit_lifelong.reporting.terminal import Console
from easyedit_lifelong.runs.checks import check_method, usable_requests
from easyedit_lifelong.runs.inputs import reader_of
from easyedit_lifelong.runs.run_folder import SCHEMA_VERSION, check_free
from easyedit_lifelong.write_errors import translated_write_errors

LOG = logging.getLogger(__name__)

RESULT, VALUES, PLOT = "scope.json", "scope.csv", "scope.svg"


def run(arguments: argparse.Namespace) -> int:
    """Edit a model in batches, and record the z-score of every token; check all inputs before the model is loaded.

    Raises:
        LifelongError: an input can't be used, or no batch could be edited.
    """
    console = Console()
    hparams = hparams_from_arguments(arguments)
    method = get_plugins().method_for(hparams)
    if method is None or method.study_scope is None:
        raise HyperParameterError(f"{hparams.alg_name} offers no scope study; CoachHook does")
    if getattr(hparams, "wohk", False):
        raise HyperParameterError("--wohk 1 edits without hook layers, so there is no scope to study; leave it out")
    out = check_free(arguments.out, what="study", files=(RESULT, VALUES, PLOT))
    check_empty(out)
    requests = read_requests(
        arguments.data,
        reader_of(arguments.data, arguments.format).read,
        skip_unusable=arguments.skip_unusable,
        limit=arguments.edits,
    )
    console.print(
        f"{method.name} on {hparams.model_name}: {counted(len(requests), 'edit')} from {arguments.data}, "
        f"batches of {hparams.batch_size}",
        highlight=False,
    )
    model, tokenizer = load_model_for(hparams)
    check_method(method, model, tokenizer, hparams)
    usable, skipped = usable_requests(
        method, model, tokenizer, hparams, requests, Scorer(tokenizer), skip=arguments.skip_unusable
    )
    edited = _edit_batches(console, method, model, tokenizer, usable, hparams)
    if not edited:
        raise EditError("every batch failed; there is no scope to study")
    scope = method.study_scope(model, tokenizer, edited)
    config = {
        "model": model_label(model),
        "data": arguments.data,
        "n_requests": len(requests),
        "n_edits": len(edited),
        "skipped": skipped,
        "hparams": hparams_values(hparams),
    }
    write_scope(scope, out, config)
    _show(console, scope)
    console.print(f"\nResults: {out}/ ({RESULT}, {VALUES}, {PLOT})", highlight=False)
    return 0


def _edit_batches(
    console: Console, method: EditMethod, model: Any, tokenizer: Any, requests: Sequence[EditRequest], hparams: Any
) -> list[EditRequest]:
    """Edit all batches; log a warning for each that fails. Return the requests of the others."""
    edited: list[EditRequest] = []
    with edit_progress(console, len(requests)) as progress:
        for start in range(0, len(requests), hparams.batch_size):
            batch = list(requests[start : start + hparams.batch_size])
            try:
                method.apply(model, tokenizer, batch, hparams)
            except EditError as error:
                LOG.warning("%s", error)
            else:
                edited += batch
            progress.edited(start + len(batch), {})
    return edited


def write_scope(scope: ScopeStudy, out: Path, config: dict[str, Any]) -> None:
    """Write the z-score of every token (CSV), the plot (SVG), and the figures and rows (JSON), in one step.

    Args:
        scope: the study's result.
        out: the folder.
        config: the settings of the study, for the JSON file.

    Raises:
        RunError: a file can't be written.
    """
    header = {"schema_version": SCHEMA_VERSION, **config, "module": scope.module, "alpha": scope.alpha}
    result = {**header, "figures": scope.summary(), "rows": [row.to_dict() for row in scope.rows]}
    with translated_write_errors(out), atomic_folder(out) as folder:
        with (folder / VALUES).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["case_id", "kind", "position", "token", "from_subject", "z"])
            for row in scope.rows:
                for position, (token, z) in enumerate(zip(row.tokens, row.z, strict=True)):
                    distance = "" if row.subject is None else position - row.subject
                    shown = z if math.isfinite(z) else ""
                    writer.writerow([row.case_id, row.kind, position, token, distance, shown])
        (folder / PLOT).write_text(scope_svg(scope), encoding="utf-8")
        (folder / RESULT).write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _show(console: Console, scope: ScopeStudy) -> None:
    """Print the figures of prompts and paraphrases side by side."""
    table = plain_table(f"\n{scope.module}, alpha {scope.alpha:.3f}")
    table.add_column("figure")
    summary = scope.summary()
    for kind in summary:
        table.add_column(f"{kind}s", justify="right")
    table.add_column("what it is", overflow="fold")
    for name, meaning in FIGURE_MEANINGS.items():
        decimals = 0 if name in ("n", "n_subject") else 3
        cells = [f"{figures[name]:.{decimals}f}" if name in figures else "-" for figures in summary.values()]
        table.add_row(name, *cells, meaning)
    console.print(table)
