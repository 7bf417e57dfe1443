"""What the step files of a state folder say of their edits, apart from the tensors.

:mod:`~easyedit_lifelong.edits.step_files` writes these files, and reads them with their tensors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.parsing import parse_json

STEP = "step"
"""How the names of a state folder's step files begin."""


@dataclass(frozen=True)
class StepEntry:
    """What a step's file holds besides tensors.

    Attributes:
        edits: the records of the edits.
        state: the method's state.
        text: the JSON text of both.
        digest: the chained digest that the file holds.
    """

    edits: list[dict[str, Any]]
    state: dict[str, Any]
    text: str
    digest: str


def step_file(folder: Path, number: int, stem: str = STEP) -> Path:
    """Return the path of a step's file, whose name begins with ``stem``; steps are counted from 1."""
    return folder / f"{stem}-{number:06d}.safetensors"


def step_count(folder: Path, stem: str = STEP) -> int:
    """Return the number of the last step file in a folder; files before it can be missing."""
    names = [path.stem.removeprefix(f"{stem}-") for path in folder.glob(f"{stem}-*.safetensors")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


@contextlib.contextmanager
def open_step(path: Path, framework: Literal["numpy", "pt"] = "numpy") -> Iterator[tuple[StepEntry, Any]]:
    """Open a step's file. Inside the context, errors of reading name the file.

    Args:
        path: the file.
        framework: the framework of the tensors, if these are read: see ``safetensors.safe_open``.

    Yields:
        The entry of the step, and the file, whose tensors have not been read.

    Raises:
        RunError: the file cannot be read.
    """
    try:
        with safe_open(path, framework=framework) as file:
            text, digest = (file.metadata() or {})["step"], file.metadata()["digest"]
            entry = parse_json(text)
            if not isinstance(entry["state"], dict) or not entry["edits"]:
                raise ValueError("it holds no edits, or its state is not a mapping")
            for edit in entry["edits"]:
                EditRecord.from_dict(edit, path)
            yield StepEntry(entry["edits"], entry["state"], text, digest), file
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise RunError(f"{path}: can't be read: {error}. {damaged_state(path)}") from error


def step_entries(folder: Path) -> Iterator[StepEntry]:
    """Yield the entry of each step's file; tensors are not read.

    Raises:
        RunError: a file cannot be read.
    """
    for number in range(1, step_count(folder) + 1):
        with open_step(step_file(folder, number)) as (entry, _):
            pass
        yield entry


def digest_of_step(path: Path) -> str:
    """Return the chained digest that a step's file holds; its content is not checked.

    Raises:
        RunError: the file cannot be read.
    """
    with open_step(path) as (entry, _):
        return entry.digest


def damaged_state(path: Path) -> str:
    """Return the last sentence of a message about a step's file that can't be used."""
    return f"The state in {path.parent} is incomplete or damaged."
