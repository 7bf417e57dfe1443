"""The command ``export``: write a plain checkpoint with saved edits in its weights."""

from __future__ import annotations

import argparse

from easyedit_lifelong.commands.saved_edits import saved_edits_from
from easyedit_lifelong.edits import export_model, load_edits
from easyedit_lifelong.edits.edits_folder import check_empty
from easyedit_lifelong.reporting.console_tables import print_line
from easyedit_lifelong.reporting.terminal import Console


def run(arguments: argparse.Namespace) -> int:
    """Write the checkpoint.

    Raises:
        LifelongError: an input can't be used, or the method's edits can't be expressed as weights.
    """
    saved, out = saved_edits_from(arguments), arguments.out
    check_empty(out)  # before the model is loaded
    model, tokenizer = saved.base_model()
    load_edits(model, saved.folder, tokenizer)
    report = export_model(model, tokenizer, out)
    console = Console()
    amounts = ", ".join(f"{method} {count}" for method, count in report.edits.items())
    print_line(console, f"{out}: {saved.made_on} with its edits in the weights ({amounts}).")
    for lost in report.lost:
        print_line(console, f"Lost: {lost}")
    print_line(
        console,
        f'Load it with AutoModelForCausalLM.from_pretrained("{out}"); this package isn\'t needed for it.',
    )
    return 0
