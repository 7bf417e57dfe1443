"""The index of a state folder that version 0.1 wrote: what those of all methods have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from easyedit_lifelong.errors import RunError


def read_index(path: Path, method: str, version: int, called: str) -> tuple[str, dict[str, Any]]:
    """Return the index of a folder of edits, as text and as what it says.

    Args:
        path: the index.
        method: whose edits they must be.
        version: the newest version of the format that can be read.
        called: what the folder should hold, for messages.

    Raises:
        RunError: there is none, or it can't be used; the message names the file.
    """
    try:
        text = path.read_text(encoding="utf-8")
        index = json.loads(text)
        written, whose = index["format_version"], index["method"]
    except FileNotFoundError:
        raise RunError(f"{path}: no such file; this folder holds no {called}") from None
    except OSError as error:
        raise RunError(f"{path}: can't be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: isn't the index of {called}") from error
    if whose != method or not isinstance(written, int):
        raise RunError(f"{path}: isn't the index of {called}")
    if written > version:
        raise RunError(f"{path}: has format version {written}; this package knows versions up to {version}. Update it.")
    return text, index


def check_whole(path: Path, index: Mapping[str, Any], parts: Mapping[str, type], called: str) -> None:
    """Check that an index, or an entry of it, has what it needs.

    Raises:
        RunError: something is missing, or of another kind.
    """
    if not isinstance(index, dict) or not all(isinstance(index.get(name), kind) for name, kind in parts.items()):
        raise RunError(f"{path}: isn't the whole index of {called}; something is missing or of another kind")
