"""The command ``doctor``: show what is installed, what is missing, and the commands that install it."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata

from rich.text import Text

from easyedit_lifelong import bridge
from easyedit_lifelong.errors import LifelongError
from easyedit_lifelong.models.cache import cache_dir
from easyedit_lifelong.models.packaged_models import DEFAULT_MODEL, PACKAGED_MODELS
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.reporting.console_tables import plain_table, print_json, print_line
from easyedit_lifelong.reporting.runnable_commands import runnable
from easyedit_lifelong.reporting.terminal import Console


def run(arguments: argparse.Namespace) -> int:
    """Check the installation; return 1 if something required is missing."""
    findings = run_checks()
    if arguments.json:
        print_json(Console(), [dataclasses.asdict(finding) for finding in findings])
    else:
        print_findings(findings)
    return 0 if all(finding.ok for finding in findings if finding.required) else 1


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        what: what was checked.
        ok: whether the check passed.
        state: the result in words, such as a version.
        remedy: the command that repairs it.
        required: whether this package can't be used without it.
    """

    what: str
    ok: bool
    state: str
    remedy: str = ""
    required: bool = True

    @property
    def mark(self) -> Text:
        """The result in one word, with its colour."""
        if self.ok:
            return Text("ok", "green")
        return Text("missing", "red") if self.required else Text("note", "yellow")


_PACKAGES = (
    "torch",
    "transformers",
    "numpy",
    "pluggy",
    "accelerate",
    "filelock",
    "jinja2",
    "matplotlib",
    "pyyaml",
    "rich",
    "safetensors",
    "shtab",
)


def run_checks() -> list[Finding]:
    """Run all checks."""
    findings = [Finding("python", True, platform.python_version())]
    findings += [_package(package) for package in _PACKAGES]
    findings += [_package(package, required=False) for package in ("gguf", "sentencepiece")]  # only some models need it
    checks = (_devices, _easyedit, _registration, _demo_model, _cache, _third_party)
    findings += map(_run_check, checks)
    return [dataclasses.replace(finding, remedy=runnable(finding.remedy)) for finding in findings]


def print_findings(findings: Sequence[Finding]) -> None:
    """Print all findings, then the remedies of failed checks."""
    console = Console()
    table = plain_table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        table.add_row(finding.mark, finding.what, finding.state)
    console.print(table)
    for finding in findings:
        if not finding.ok and finding.remedy:
            print_line(console, f"\n{finding.what}: {finding.remedy}")


def _run_check(check: Callable[[], Finding]) -> Finding:
    """Run a check; if it raises an error, the error is the finding."""
    try:
        return check()
    except Exception as error:  # a broken EasyEdit can raise anything
        state = str(error) if isinstance(error, LifelongError) else f"{type(error).__name__}: {error}"
        return Finding(check.__name__.strip("_"), False, state)


def _package(name: str, *, required: bool = True) -> Finding:
    """Check that a package is installed."""
    try:
        return Finding(name, True, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Finding(name, False, "not installed", f"pip install {name}", required)


def _devices() -> Finding:
    """List the devices that torch can use."""
    from easyedit_lifelong.models.devices import available_devices

    return Finding("devices", True, ", ".join(available_devices()))


def _easyedit() -> Finding:
    """Check that EasyEdit is installed."""
    info = bridge.find_easyedit()
    if info is None:
        return Finding("easyeditor", False, "not found", bridge.install_hint())
    return Finding("easyeditor", True, f"{info.flavour} {info.version or ''} in {info.folder}".replace("  ", " "))


def _registration() -> Finding:
    """Check that the methods can be registered with EasyEdit."""
    if bridge.find_easyedit() is None:
        return Finding("registration", False, "EasyEdit isn't installed")
    bridge.base_editor()
    return Finding("registration", True, ", ".join(get_plugins().methods.names()) + " in BaseEditor")


def _demo_model() -> Finding:
    """Check that the model of the demo is installed."""
    model = PACKAGED_MODELS[DEFAULT_MODEL]
    if not model.is_installed or importlib.util.find_spec("gguf") is None:
        state = "not installed (only the demo needs it)"
        return Finding(model.name, False, state, model.install_command, required=False)
    return Finding(model.name, True, "installed")


def _cache() -> Finding:
    """Show the folder and the size of the cache."""
    folder = cache_dir()
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else 0
    return Finding("cache", True, f"{folder} ({size / 1e6:.0f} MB)")


def _third_party() -> Finding:
    """Check that all plugins were loaded."""
    plugins = get_plugins()
    list(plugins.methods)  # imports those that are imported when they are first used
    if plugins.broken:
        state = "; ".join(f"{name}: {problem}" for name, problem in plugins.broken.items())
        return Finding("plugins", False, state, "uninstall or update the plugin", required=False)
    return Finding("plugins", True, f"{len(plugins.manager.get_plugins())} loaded")
