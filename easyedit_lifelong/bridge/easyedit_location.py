"""Find EasyEdit without importing it, and tell the user how to install it."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from easyedit_lifelong.errors import EasyEditMissingError

PACKAGE = "easyeditor"
RELEASE = "easyeditor==0.0.1.dev0"
REPOSITORY = "https://github.com/zjunlp/EasyEdit"

RELEASE_2023 = "release-2023"
MAIN = "main"
UNKNOWN = "unknown"

# For each flavour, a file that only it has, relative to the package's folder.
_MARKS = ((MAIN, "util/device.py"), (RELEASE_2023, "editors/singleton_editor.py"))


class BridgeFinder:
    """Base class of our import hook; :func:`find_spec` skips its instances."""


@dataclass(frozen=True)
class EasyEditInfo:
    """The installation of EasyEdit that ``import easyeditor`` imports.

    Attributes:
        flavour: ``"release-2023"``, ``"main"``, or ``"unknown"``.
        version: the installed distribution's version; None for a checkout.
        folder: the package's folder.
    """

    flavour: str
    version: str | None
    folder: Path


def find_easyedit() -> EasyEditInfo | None:
    """Return the installation of EasyEdit, or None. It is not imported."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.origin:
        return None
    folder = Path(spec.origin).parent
    flavour = next((name for name, mark in _MARKS if (folder / mark).is_file()), UNKNOWN)
    return EasyEditInfo(flavour, _version(folder), folder)


def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
    """Return the spec of a module from Python's finders, in their order, without our import hook."""
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        if find is None or isinstance(finder, BridgeFinder):
            continue
        spec = find(name, path, target)
        if spec is not None:
            return spec
    return None


def install_hint() -> str:
    """Return the commands that install EasyEdit, as a message for the user."""
    return (
        "EasyEdit (the package 'easyeditor') isn't installed. Install the release:\n"
        f"    pip install --no-deps {RELEASE}\n"
        "or use the current main branch:\n"
        f"    git clone {REPOSITORY}\n"
        "    export PYTHONPATH=$PWD/EasyEdit:$PYTHONPATH"
    )


def require_easyedit() -> EasyEditInfo:
    """Return the installation of EasyEdit.

    Raises:
        EasyEditMissingError: EasyEdit isn't installed; the message says how to install it.
    """
    info = find_easyedit()
    if info is None:
        raise missing_error()
    return info


def import_easyedit() -> ModuleType:
    """Import and return EasyEdit's package.

    Raises:
        EasyEditMissingError: EasyEdit isn't installed, or can't be imported; the message says what to do.
    """
    info = require_easyedit()
    try:
        return importlib.import_module(PACKAGE)
    except ImportError as error:
        raise missing_error(
            f"EasyEdit is in {info.folder}, but can't be imported: {error}. `easyedit-lifelong doctor` shows more."
        ) from error


def missing_error(message: str | None = None) -> EasyEditMissingError:
    """Return an error with a message, by default the instructions to install EasyEdit."""
    error = EasyEditMissingError(message or install_hint())
    error.name = PACKAGE
    return error


def _version(folder: Path) -> str | None:
    """Return the version of the distribution that installed this folder; None for a checkout."""
    for distribution in metadata.distributions(name=PACKAGE):
        if Path(str(distribution.locate_file(PACKAGE))).resolve() == folder.resolve():
            return distribution.version
    return None
