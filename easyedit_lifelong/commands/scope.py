"""The scope study from the command line: edit, look at the z-scores, leave a table, the values and a plot."""

from __future__ import annotations

import csv
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from easyedit_lifelong.commands.consecutive import Options, hyperparameters
from easyedit_lifelong.commands.run_session import load_for, reader_of
from easyedit_lifelong.data.readers import read_requests
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import EditError, HyperParameterError, RunError
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.hyperparams import hparams_values
from easyedit_lifelong.methods.coachhook.config import CoachHookHyperParams
from easyedit_lifelong.methods.coachhook.scope import FIGURES, Scope, study_scope
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.reporting.progress import edit_progress
from easyedit_lifelong.reporting.scope_plot import scope_svg
from easyedit_lifelong.runs.checks import check_method, find_method, usable_requests
from easyedit_lifelong.runs.run_folder import SCHEMA_VERSION, check_free

LOG = logging.getLogger(__name__)

RESULT, VALUES, PLOT = "scope.json", "scope.csv", "scope.svg"


def scope_session(options: Options) -> Scope:
    """Edit a model with CoachHook, consecutively, and study where its hooks then act.

    Raises:
        LifelongError: something asked for can't be had.
    """
    console = Console()
    hparams = hyperparameters(options)
    if not isinstance(hparams, CoachHookHyperParams):
        raise HyperParameterError(f"{hparams.alg_name} has no hook layers; the scope study is CoachHook's")
    if hparams.wohk:
        raise HyperParameterError("--wohk 1 edits without hook layers; there is no scope to study")
    out = check_free(options.out or Path("runs/scope"), what="study", files=(RESULT, VALUES, PLOT))
    reader = reader_of(options.ds_dir, options.format)
    requests = read_requests(options.ds_dir, reader.read)[: options.sample]
    console.print(
        f"CoachHook on {hparams.model_name}: {len(requests)} edits from {options.ds_dir}, {hparams.batch_size} a batch",
        highlight=False, markup=False,
    )  # fmt: skip
    model, tokenizer = load_for(hparams)
    method = find_method(hparams)
    usable, skipped = usable_requests(
        method, model, tokenizer, hparams, requests, Scorer(tokenizer), skip=options.skip_unusable
    )
    check_method(method, model, tokenizer, hparams)
    edited = _edit(console, model, tokenizer, usable, hparams)
    if not edited:
        raise EditError("every batch failed; there is no scope to study")
    scope = study_scope(model, tokenizer, edited, hparams.fact_token)
    config = {
        "model": model_label(model), "data": str(options.ds_dir), "n_requests": len(requests), "n_edits": len(edited),
        "skipped": skipped,
        "hparams": hparams_values(hparams),
    }  # fmt: skip
    write_scope(scope, out, config)
    scope_table(console, scope)
    console.print(f"\nResults: {out}/ ({RESULT}, {VALUES}, {PLOT})", highlight=False, markup=False)
    return scope


def _edit(
    console: Console, model: Any, tokenizer: Any, requests: Sequence[EditRequest], hparams: CoachHookHyperParams
) -> list[EditRequest]:
    """Edit batch upon batch; return the requests of the batches that succeeded."""
    method, size = find_method(hparams), hparams.batch_size
    edited: list[EditRequest] = []
    with edit_progress(console, len(requests)) as progress:
        for start in range(0, len(requests), size):
            batch = list(requests[start : start + size])
            try:
                method.apply(model, tokenizer, batch, hparams)
            except EditError as error:
                LOG.warning("%s", error)
            else:
                edited += batch
            progress.edited(start + len(batch), {})
    return edited


def write_scope(scope: Scope, out: Path, config: dict[str, Any]) -> None:
    """Write the figures and rows (JSON), every token's value (CSV) and the plot (SVG).

    Raises:
        RunError: the folder can't be written to.
    """
    figures = {"schema_version": SCHEMA_VERSION, **config, "module": scope.module, "alpha": scope.alpha}
    result = {**figures, "figures": scope.summary(), "rows": [row.to_dict() for row in scope.rows]}
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / RESULT).write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        with (out / VALUES).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["case_id", "kind", "position", "token", "from_subject", "z"])
            for row in scope.rows:
                for position, (token, z) in enumerate(zip(row.tokens, row.z, strict=True)):
                    distance = "" if row.subject is None else position - row.subject
                    writer.writerow([row.case_id, row.kind, position, token, distance, z if math.isfinite(z) else ""])
        (out / PLOT).write_text(scope_svg(scope), encoding="utf-8")
    except OSError as error:
        raise RunError(f"{error.filename or out}: can't be written: {error.strerror}") from error


def scope_table(console: Console, scope: Scope) -> None:
    """Print the figures of prompts and paraphrases side by side."""
    table = Table(title=f"\n{scope.module}, alpha {scope.alpha:.3f}", title_justify="left", box=None, pad_edge=False)
    table.add_column("figure")
    summary = scope.summary()
    for kind in summary:
        table.add_column(f"{kind}s", justify="right")
    table.add_column("what it is", overflow="fold")
    for name, meaning in FIGURES.items():
        style = "{:.0f}" if name.startswith("n") else "{:.3f}"
        cells = [style.format(figures[name]) if name in figures else "-" for figures in summary.values()]
        table.add_row(name, *cells, meaning)
    console.print(table)
