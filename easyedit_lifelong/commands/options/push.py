"""The options of the command ``push``."""

from __future__ import annotations

import argparse

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
