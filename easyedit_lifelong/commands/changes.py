"""The command ``changes``: show at which tokens and layers saved edits change a model's states."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.torch import save as to_bytes

from easyedit_lifelong.atomic import atomic_folder
from easyedit_lifelong.commands.saved_edits import saved_edits_from
from easyedit_lifelong.edits import load_edits
from easyedit_lifelong.edits.edits_folder import check_empty
from easyedit_lifelong.locate.state_changes import StateChanges, compare_states, record_states
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.reporting.console_tables import plain_table, print_line
from easyedit_lifelong.reporting.report.changes_page import changes_page
from easyedit_lifelong.reporting.report.page_files import translated_write_errors, write_page
from easyedit_lifelong.reporting.report.style import figure_options
from easyedit_lifelong.reporting.terminal import Console
from easyedit_lifelong.runs.run_folder import check_free

ARRAYS, INDEX, PAGE = "changes.safetensors", "changes.json", "report.html"


def run(arguments: argparse.Namespace) -> int:
    """Record the states of the prompts without and with the edits, and write their differences and a page.

    Raises:
        LifelongError: an input can't be used.
    """
    console = Console()
    saved = saved_edits_from(arguments)
    out = check_free(arguments.out, what="study", files=(ARRAYS, INDEX, PAGE))
    check_empty(out)
    prompts = arguments.prompt or [str(edit["prompt"]) for edit in saved.edits[:3]]
    model, tokenizer = saved.base_model()
    unedited = [record_states(model, tokenizer, prompt) for prompt in prompts]
    load_edits(model, saved.folder, tokenizer)
    changes = [compare_states(before, record_states(model, tokenizer, before.prompt)) for before in unedited]
    write_changes(out, changes, model_label(model), arguments.edits)
    _show(console, changes)
    print_line(console, f"Results: {out}/   Report: {out / PAGE}")
    return 0


def write_changes(out: Path, changes: Sequence[StateChanges], model: str, edits: str) -> None:
    """Write the changes (safetensors and JSON), the page and, beside it, its figures, in one step.

    Raises:
        RunError: a file can't be written.
    """
    arrays = {
        f"{number}.{kind}": values.contiguous()
        for number, prompt in enumerate(changes, 1)
        for kind, values in prompt.changes.items()
    }
    index = {
        "schema_version": 1,
        "model": model,
        "edits": edits,
        "prompts": [
            {"prompt": prompt.prompt, "tokens": prompt.tokens, "next_token": prompt.next_token} for prompt in changes
        ],
    }
    with translated_write_errors(out), atomic_folder(out) as folder:
        (folder / ARRAYS).write_bytes(to_bytes(arrays))
        with figure_options():
            page, plots = changes_page(changes, model, edits)
            write_page(folder / PAGE, page, plots)
        (folder / INDEX).write_text(json.dumps(index, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _show(console: Console, changes: Sequence[StateChanges]) -> None:
    """Print, for each prompt, where its states change most, and how much its prediction changes."""
    table = plain_table("\nLargest relative change of a block's output, and distance of the next-token predictions")
    for name, justify in (("prompt", "left"), ("change", "right"), ("token", "left"), ("layer", "right")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    table.add_column("distance", justify="right")
    for prompt in changes:
        values = prompt.changes["state"].numpy()
        token, layer = np.unravel_index(int(values.argmax()), values.shape)
        largest = f"{values.max():.3g}"
        table.add_row(prompt.prompt, largest, prompt.tokens[token].strip(), str(layer), f"{prompt.next_token:.3f}")
    console.print(table)
