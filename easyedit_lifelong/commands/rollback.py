"""The command ``rollback``: remove edits from a folder of saved edits."""

from __future__ import annotations

import argparse

from easyedit_lifelong.edits.remove import rollback_folder
from easyedit_lifelong.plurals import counted
from easyedit_lifelong.reporting.console_tables import print_json, print_line
from easyedit_lifelong.reporting.folder_tables import EDIT, text_table, wide_console


def run(arguments: argparse.Namespace) -> int:
    """Remove the edits, and print them.

    Raises:
        LifelongError: the edits can't be removed; the folder is unchanged.
    """
    result = rollback_folder(
        arguments.folder,
        cases=arguments.case,
        prompt=arguments.prompt,
        batch=arguments.to_batch,
        out=arguments.out,
    )
    console = wide_console()
    if arguments.json:
        removed = [record.to_dict() for record in result.removed]
        print_json(console, {"folder": str(result.folder), "removed": removed, "left": result.left})
        return 0
    if result.removed:
        rows = [[str(record.case_id), f"{record.prompt} → {record.target_new}"] for record in result.removed]
        text_table(console, rows, ["case", EDIT], "removed")
    print_line(console, f"{counted(len(result.removed), 'edit')} removed, {result.left} left: {result.folder}")
    return 0
