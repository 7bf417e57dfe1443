"""The command line for attacks on it."""

from tests.commands.conftest import edits_cli

__all__ = ["edits_cli"]
