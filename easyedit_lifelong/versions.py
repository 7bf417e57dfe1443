"""This package's version, and the versions of what a result depends on."""

from __future__ import annotations

import platform
from importlib import metadata

__version__ = "0.2.0"

PACKAGES = ("easyedit-lifelong", "easyeditor", "torch", "transformers", "numpy")


def package_versions() -> dict[str, str]:
    """Return the installed versions by package; what isn't installed is left out."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
