"""The version of this package, and of the packages that results depend on."""

from __future__ import annotations

import platform
from importlib import metadata

__version__ = "0.2.0"

PACKAGES = ("easyedit-lifelong", "easyeditor", "torch", "transformers", "numpy")


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages among :data:`PACKAGES`, by name."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
