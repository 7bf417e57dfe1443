"""What folders of edits have in common, whichever method they are of: an index, and whether it belongs here."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.models.fingerprint import model_fingerprint
from easyedit_lifelong.models.load import model_label


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


def check_model(path: Path, made_on: str, fingerprint: str, model: Any) -> None:
    """Check that edits were made on this model.

    Args:
        path: the edits' index, for the message.
        made_on: name of the model that they were made on.
        fingerprint: of its unedited weights.
        model: the model that they are to be put on.

    Raises:
        RunError: its weights are others.
    """
    if fingerprint != model_fingerprint(model):
        raise RunError(
            f"{path}: was made on {made_on!r} with other weights than this {model_label(model)!r} has "
            "(the fingerprints differ). Load the same, unedited model."
        )


def check_settings(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that edits were made with these settings; those that an older folder does not name are not compared.

    Raises:
        RunError: one differs; the message says which.
    """
    for name, value in before.items():
        if now.get(name) != value:
            raise RunError(f"{path}: was made with {name}={value!r}; now it is {now.get(name)!r}")


@contextlib.contextmanager
def writing(folder: Path, what: str) -> Iterator[None]:
    """Turn what goes wrong with a disk inside into an error that says what couldn't be written.

    Raises:
        RunError: it couldn't.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        said = getattr(error, "strerror", None) or error
        raise RunError(f"{folder}: {what} can't be written: {said}. What was written stays.") from error
