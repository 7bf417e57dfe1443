"""The command ``pull``: download saved edits from the Hugging Face Hub into a folder."""

from __future__ import annotations

import argparse

from easyedit_lifelong.commands.saved_edits import SelectedEdits
from easyedit_lifelong.edits.edits_hub import copy_edits
from easyedit_lifelong.plurals import counted
from easyedit_lifelong.reporting.console_tables import print_line
from easyedit_lifelong.reporting.terminal import Console


def run(arguments: argparse.Namespace) -> int:
    """Download the edits and check them.

    Raises:
        LifelongError: the repository holds no edits, or the folder can't be used.
    """
    saved = SelectedEdits.of(str(copy_edits(arguments.repo, arguments.out, arguments.revision)))
    print_line(Console(), f"{arguments.out}: {counted(len(saved.edits), 'edit')} of {saved.made_on}, checked.")
    return 0
