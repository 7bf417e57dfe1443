"""The command ``plugins``: list all that plugins registered, and the plugins that could not be loaded."""

from __future__ import annotations

import argparse
import re

from rich.text import Text

from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.reporting.console_tables import plain_table
from easyedit_lifelong.reporting.terminal import Console

EXAMPLE = "easyedit-lifelong plugins"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add no arguments."""


def run(arguments: argparse.Namespace) -> int:
    """Print every registered method, dataset format, tracker and judge, and the plugin that registered it."""
    plugins = get_plugins()
    table = plain_table()
    for header in ("kind", "name", "from plugin", "what it is"):
        table.add_column(header, overflow="fold")
    for method in plugins.methods:
        table.add_row("method", method.name, plugins.methods.origin(method.name), _purpose(method.hparams_class))
    for registry, kind in ((plugins.readers, "format"), (plugins.trackers, "tracker"), (plugins.judges, "judge")):
        for entry in registry:
            table.add_row(kind, entry.name, registry.origin(entry.name), entry.description)
    for name, problem in plugins.broken.items():
        table.add_row("[red]broken[/red]", name, "entry point", Text(problem))
    Console().print(table)
    return 0


def _purpose(hparams_class: type) -> str:
    """Return the first sentence of a class's docstring, up to a colon if it has one."""
    summary = " ".join((hparams_class.__doc__ or "").strip().partition("\n\n")[0].split())
    return re.split(r"(?<=\.)\s|:\s", summary)[0]
