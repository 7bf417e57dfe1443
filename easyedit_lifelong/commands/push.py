"""The command ``push``: upload saved edits to the Hugging Face Hub."""

from __future__ import annotations

import argparse

from easyedit_lifelong.edits import push_edits
from easyedit_lifelong.edits.edits_hub import parse_name
from easyedit_lifelong.reporting.console_tables import print_line
from easyedit_lifelong.reporting.terminal import Console


def run(arguments: argparse.Namespace) -> int:
    """Upload the edits, and print how to load them.

    Raises:
        LifelongError: the folder holds no edits, or the Hub refuses them.
    """
    address = push_edits(
        arguments.folder,
        arguments.repo,
        private=not arguments.public,
        revision=arguments.revision,
        commit_message=arguments.message,
    )
    console = Console()
    print_line(console, f"Pushed: {address}")
    repo, branch = parse_name(arguments.repo)
    branch = arguments.revision or branch
    print_line(console, f'Load them with load_edits(model, "hub:{repo}{f"@{branch}" if branch else ""}", tokenizer)')
    return 0
