"""The command ``plugins``: list all that plugins registered, what each method can do, and plugins that are broken."""

from __future__ import annotations

import argparse
import re
from typing import Any

from rich.text import Text

from easyedit_lifelong.commands.capabilities import CAPABILITIES, capabilities_of
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.registry import Registry
from easyedit_lifelong.reporting.console_tables import plain_table, print_json
from easyedit_lifelong.reporting.terminal import Console


def run(arguments: argparse.Namespace) -> int:
    """Print every entry that plugins registered (methods, dataset formats, trackers, …), and its plugin.

    With ``--methods``, print what each method can do instead.
    """
    if arguments.methods:
        print_capabilities(as_json=arguments.json)
        return 0
    entries, broken = registered_entries(), get_plugins().broken
    if arguments.json:
        problems = [{"kind": "broken", "name": name, "description": problem} for name, problem in broken.items()]
        print_json(Console(), [*entries, *problems])
        return 0
    table = plain_table()
    for header in ("kind", "name", "from plugin", "what it is"):
        table.add_column(header, overflow="fold")
    for entry in entries:
        table.add_row(entry["kind"], entry["name"], entry["plugin"], entry["description"])
    for name, problem in broken.items():
        table.add_row(Text("broken", "red"), name, "entry point", problem)
    Console().print(table)
    return 0


def print_capabilities(*, as_json: bool) -> None:
    """Print which of :data:`.CAPABILITIES` each registered method has."""
    capabilities = {method.name: capabilities_of(method) for method in get_plugins().methods}
    if as_json:
        print_json(Console(), [{"name": name, **can} for name, can in capabilities.items()])
        return
    table = plain_table()
    table.add_column("method", no_wrap=True)
    for capability in CAPABILITIES:
        table.add_column(capability, justify="center")
    for name, can in capabilities.items():
        table.add_row(name, *("yes" if can[capability] else "-" for capability in CAPABILITIES))
    Console().print(table)


def registered_entries() -> list[dict[str, str]]:
    """Return ``kind``, ``name``, ``plugin`` and ``description`` of everything that plugins registered."""
    plugins = get_plugins()
    registries: dict[str, Registry[Any]] = {
        "method": plugins.methods,
        "format": plugins.readers,
        "tracker": plugins.trackers,
        "judge": plugins.judges,
        "loader": plugins.loaders,
        "engine": plugins.covariance_engines,
        "model method": plugins.model_methods,
    }
    return [
        {"kind": kind, "name": entry.name, "plugin": registry.origin(entry.name), "description": _description(entry)}
        for kind, registry in registries.items()
        for entry in registry
    ]


def _description(entry: Any) -> str:
    """Return what an entry is; of a method, what its hyperparameter class says of it; empty if there is no text."""
    return _method_text(entry.hparams_class) if isinstance(entry, EditMethod) else getattr(entry, "description", "")


def _method_text(hparams_class: type) -> str:
    """Return what follows "Hyperparameters of" in a class's docstring, up to a colon, a semicolon or a full stop."""
    summary = " ".join((hparams_class.__doc__ or "").strip().partition("\n\n")[0].split())
    first = re.split(r"(?<=\.)\s|[:;]\s", summary)[0].removesuffix(".")
    return re.sub(r"^Hyperparameters of (the )?", "", first)
