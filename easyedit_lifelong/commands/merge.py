"""The command ``merge``: merge folders of edits that were made on the same model."""

from __future__ import annotations

import argparse

from easyedit_lifelong.edits.merge import merge_edits
from easyedit_lifelong.plurals import counted
from easyedit_lifelong.reporting.console_tables import print_json, print_line
from easyedit_lifelong.reporting.folder_tables import cell_text, text_table, wide_console


def run(arguments: argparse.Namespace) -> int:
    """Merge the folders, and print the edits that conflict with another folder's edit.

    Raises:
        LifelongError: the folders can't be merged; nothing is written.
    """
    report = merge_edits(arguments.folders, arguments.out)
    console = wide_console()
    if arguments.json:
        print_json(console, report.to_dict())
        return 0
    if report.conflicts:
        rows = [
            [str(c.case_id), c.folder, c.decision, str(c.with_case_id), c.with_folder, cell_text(c.distance)]
            for c in report.conflicts
        ]
        headers = ["case", "of", "decision", "other case", "of", "distance"]
        text_table(console, rows, headers, "edits that conflict with another folder's")
    if report.renamed:
        rows = [[str(renamed.before), renamed.folder, renamed.after] for renamed in report.renamed]
        text_table(console, rows, ["case", "of", "new id"], "cases whose ids were in use")
    print_line(
        console,
        f"{report.out}: {counted(report.edits, 'edit')}, {counted(report.keys, 'key')} of "
        f"{counted(len(report.folders), 'folder')}; "
        f"conflicts between folders: {len(report.conflicts)}; edits in several folders: {report.duplicates}",
    )
    return 0
