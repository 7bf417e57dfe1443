"""``rollback``: take edits out of a folder of saved edits."""

from __future__ import annotations

import argparse
from pathlib import Path

from easyedit_lifelong.commands.option_types import count
from easyedit_lifelong.commands.saved_edits import amount_of
from easyedit_lifelong.edits.remove import rollback_folder
from easyedit_lifelong.reporting.console_tables import print_json, say
from easyedit_lifelong.reporting.folder_tables import EDIT, text_table, wide_console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the folder and which edits are taken out."""
    add = parser.add_argument
    add("folder", type=Path, metavar="DIR", help="folder of edits")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--case", action="append", default=[], metavar="ID", help="a case to take out (repeatable; GRACE's edits)"
    )
    what.add_argument(
        "--to-batch", type=count, metavar="N", help="keep the first N batches (CoachHook's and MEMIT's edits)"
    )
    add("--prompt", help="with --case: only the edit of this prompt, where several have the same id")
    add("--out", type=Path, metavar="DIR2", help="write what is left there (default: in place)")
    add("--json", action="store_true", help="print what was taken out as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Take the edits out, and print which.

    Raises:
        LifelongError: it cannot be done; the folder is as it was.
    """
    done = rollback_folder(
        arguments.folder,
        cases=arguments.case,
        prompt=arguments.prompt,
        batch=arguments.to_batch,
        out=arguments.out,
    )
    console = wide_console()
    if arguments.json:
        removed = [record.to_dict() for record in done.removed]
        print_json(console, {"folder": str(done.folder), "removed": removed, "left": done.left})
        return 0
    if done.removed:
        rows = [[str(record.case_id), f"{record.prompt} → {record.target_new}"] for record in done.removed]
        text_table(console, rows, ["case", EDIT], "taken out")
    say(console, f"{amount_of(len(done.removed))} taken out, {done.left} left: {done.folder}")
    return 0
