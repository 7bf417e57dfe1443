"""``export``: put saved edits into the weights of their model, as a plain checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from easyedit_lifelong.commands.saved_edits import add_saved_arguments, saved_of
from easyedit_lifelong.edits import export_model, load_edits
from easyedit_lifelong.edits.edits_folder import check_empty
from easyedit_lifelong.reporting.console_tables import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the saved edits, their model, and where the checkpoint goes."""
    add_saved_arguments(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the model; new or empty")
    parser.set_defaults(writes_at_end=True)


def run(arguments: argparse.Namespace) -> int:
    """Write the checkpoint.

    Raises:
        LifelongError: an input cannot be used, or the edits cannot be put into weights.
    """
    saved, out = saved_of(arguments), arguments.out
    check_empty(out)  # before the model loads
    model, tokenizer = saved.base_model()
    load_edits(model, saved.folder, tokenizer)
    done = export_model(model, tokenizer, out)
    console = Console()
    amounts = ", ".join(f"{method} {count}" for method, count in done.edits.items())
    say(console, f"{out}: {saved.made_on} with its edits in the weights ({amounts}).")
    for lost in done.lost:
        say(console, f"Lost: {lost}")
    say(console, f'Load it with AutoModelForCausalLM.from_pretrained("{out}"); this package isn\'t needed for it.')
    return 0
