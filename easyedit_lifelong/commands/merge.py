"""``merge``: join folders of edits that were made on the same model."""

from __future__ import annotations

import argparse
from pathlib import Path

from easyedit_lifelong.commands.saved_edits import amount_of
from easyedit_lifelong.edits.merge import merge_edits
from easyedit_lifelong.reporting.console_tables import print_json, say
from easyedit_lifelong.reporting.folder_tables import cell, text_table, wide_console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the folders and where the merged edits go."""
    add = parser.add_argument
    add("folders", type=Path, nargs="+", metavar="DIR", help="folders of GRACE edits of the same model")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the merged edits; must not hold edits")
    add("--json", action="store_true", help="print what met what as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Merge the folders, and print which edits met another folder's.

    Raises:
        LifelongError: they cannot be merged; nothing is written.
    """
    report = merge_edits(arguments.folders, arguments.out)
    console = wide_console()
    if arguments.json:
        print_json(console, report.to_dict())
        return 0
    if report.conflicts:
        rows = [
            [str(one.case_id), one.folder, one.decision, str(one.with_case_id), one.with_folder, cell(one.distance)]
            for one in report.conflicts
        ]
        headers = ["case", "of", "decision", "other case", "of", "distance"]
        text_table(console, rows, headers, "edits that met another folder's")
    if report.renamed:
        rows = [[str(one.before), one.folder, one.after] for one in report.renamed]
        text_table(console, rows, ["case", "of", "is now"], "cases whose ids were taken")
    say(
        console,
        f"{amount_of(report.edits)}, {report.keys} keys of {len(report.folders)} folders, {len(report.conflicts)} met "
        f"another folder's, {report.duplicates} were in more than one: {report.out}",
    )
    return 0
