"""Reading the index file of a state folder that version 0.1 wrote; the format is the same for all methods."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.parsing import parse_json


def read_index(path: Path, method: str, version: int, contents: str) -> dict[str, Any]:
    """Read the index of a state folder.

    Args:
        path: the index file.
        method: the method that the folder's edits must belong to.
        version: the newest format version that can be read.
        contents: what the folder should hold, for messages.

    Returns:
        The parsed JSON.

    Raises:
        RunError: the file is missing or can't be used; the message names it.
    """
    try:
        index: dict[str, Any] = parse_json(path.read_text(encoding="utf-8"))
        written_version, written_method = index["format_version"], index["method"]
    except FileNotFoundError:
        raise RunError(f"{path}: no such file; this folder holds no {contents}") from None
    except OSError as error:
        raise RunError(f"{path}: can't be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: isn't the index of {contents}") from error
    if written_method != method or not isinstance(written_version, int):
        raise RunError(f"{path}: isn't the index of {contents}")
    if written_version > version:
        raise RunError(
            f"{path}: has format version {written_version}; this package knows versions up to {version}. Update it."
        )
    return index


def check_fields(path: Path, index: Mapping[str, Any], fields: Mapping[str, type], contents: str) -> None:
    """Check that an index, or an entry of it, has all required fields.

    Args:
        path: the index file, for messages.
        index: the parsed index or entry.
        fields: the required fields with their types, by name.
        contents: what the folder should hold, for messages.

    Raises:
        RunError: a field is missing or of the wrong type.
    """
    entries = index if isinstance(index, dict) else {}
    missing = [name for name, kind in fields.items() if not isinstance(entries.get(name), kind)]
    if missing:
        raise RunError(
            f"{path}: the index of {contents} is incomplete; missing or of the wrong type: {', '.join(missing)}"
        )
