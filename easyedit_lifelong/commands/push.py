"""``push``: put saved edits on the Hugging Face Hub."""

from __future__ import annotations

import argparse

from rich.console import Console

from easyedit_lifelong.edits import push_edits
from easyedit_lifelong.edits.edits_hub import parse_name
from easyedit_lifelong.reporting.console_tables import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the folder and the repository."""
    add = parser.add_argument
    add("folder", metavar="DIR", help="saved edits")
    add("repo", metavar="OWNER/NAME", help="the repository; made if it isn't there")
    add("--public", action="store_true", help="make it public: everybody can read every edit (default: private)")
    add("--revision", metavar="BRANCH", help="branch; made if it isn't there (default: the main one)")
    add("--message", metavar="TEXT", help="commit message")


def run(arguments: argparse.Namespace) -> int:
    """Push the edits.

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
    say(console, f"Pushed: {address}")
    repo, branch = parse_name(arguments.repo)
    branch = arguments.revision or branch
    say(console, f'Load them with load_edits(model, "hub:{repo}{f"@{branch}" if branch else ""}")')
    return 0
