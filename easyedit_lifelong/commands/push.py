"""The command ``push``: upload saved edits to the Hugging Face Hub."""

from __future__ import annotations

import argparse

from easyedit_lifelong.edits import push_edits
from easyedit_lifelong.edits.edits_hub import parse_name
from easyedit_lifelong.reporting.console_tables import print_line
from easyedit_lifelong.reporting.terminal import Console

EXAMPLE = "easyedit-lifelong push my-edits me/my-edits"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("folder", metavar="DIR", help="saved edits")
    add("repo", metavar="OWNER/NAME", help="the repository; created if it doesn't exist")
    add(
        "--public",
        action="store_true",
        help="create a public repository: all can read the edits (default: private)",
    )
    add("--revision", metavar="BRANCH", help="branch; created if it doesn't exist (default: the main branch)")
    add("--message", metavar="TEXT", help="commit message")


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
