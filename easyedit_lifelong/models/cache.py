"""The folder of files that are computed once, such as converted checkpoints and second moments."""

from __future__ import annotations

import os
from pathlib import Path

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.paths import expanded_path


def cache_dir() -> Path:
    """Return this package's cache folder: ``EASYEDIT_LIFELONG_CACHE``, or one in the user's cache folder.

    Raises:
        RunError: the variable names the home folder of an unknown user, or the user's own home folder isn't known.
    """
    configured = os.environ.get("EASYEDIT_LIFELONG_CACHE")
    if configured:
        return expanded_path(configured, RunError)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else expanded_path("~/.cache", RunError)) / "easyedit-lifelong"
