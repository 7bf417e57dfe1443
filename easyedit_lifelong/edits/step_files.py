"""The step files of a state folder: one file for each step, written once and never changed.

Every file holds a digest of its content and of all files before it. So a damaged, missing or foreign file is detected.
Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from easyedit_lifelong.atomic import atomic_file
from easyedit_lifelong.edits.edits_folder import check_finite
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.edit_stores import EditsPart
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.parsing import parse_json
from easyedit_lifelong.plurals import counted

STEP = "step"
"""How the names of a state folder's step files begin."""


@dataclass(frozen=True)
class _StepFile:
    """The content of a step's file.

    Attributes:
        entry: the records of the edits (``edits``) and the method's state (``state``).
        text: the JSON text of the entry.
        digest: the chained digest that the file holds.
        tensors: the tensors by name.
    """

    entry: dict[str, Any]
    text: str
    digest: str
    tensors: dict[str, Tensor]


def step_file(folder: Path, number: int, stem: str = STEP) -> Path:
    """Return the path of a step's file, whose name begins with ``stem``; steps are counted from 1."""
    return folder / f"{stem}-{number:06d}.safetensors"


def step_count(folder: Path, stem: str = STEP) -> int:
    """Return the number of the last step file in a folder; files before it can be missing."""
    names = [path.stem.removeprefix(f"{stem}-") for path in folder.glob(f"{stem}-*.safetensors")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def write_step(path: Path, part: EditsPart, before: str) -> str:
    """Write a step's file.

    Args:
        path: the file.
        part: the step's edits; its hyperparameters are not written, since the folder's index has them.
        before: the chained digest of the previous step; empty for the first step.

    Returns:
        The chained digest of this step.

    Raises:
        OSError: the file cannot be written.
    """
    text = json.dumps({"edits": part.edits, "state": part.state}, ensure_ascii=False)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in part.tensors.items()}
    digest = chained_digest(before, text, tensors)
    with atomic_file(path) as temporary:
        temporary.write_bytes(to_bytes(tensors, {"step": text, "digest": digest}))
    return digest


def read_steps(
    folder: Path,
    hparams: dict[str, Any],
    case_ids: Sequence[int | str] | None = None,
    stem: str = STEP,
    before: str = "",
) -> tuple[list[EditsPart], str]:
    """Read the steps of a folder, and check their digests.

    Args:
        folder: the folder.
        hparams: the hyperparameters of all steps, from the folder's index.
        case_ids: read only the first steps, which must be the edits of these cases, in order. None: all steps.
        stem: how the names of the files begin.
        before: the digest that the first step is chained to.

    Returns:
        A part for each step, and the chained digest of the last step.

    Raises:
        RunError: a file cannot be read, does not follow the previous step, or holds edits of other cases.
    """
    steps: list[EditsPart] = []
    digest, n_edits = before, 0
    n_steps = step_count(folder, stem)
    while True:
        is_complete = len(steps) >= n_steps if case_ids is None else n_edits >= len(case_ids)
        if is_complete:
            return steps, digest
        path = step_file(folder, len(steps) + 1, stem)
        step = _read(path)
        digest = chained_digest(digest, step.text, step.tensors)
        if step.digest != digest:
            raise RunError(f"{path}: has been changed, or doesn't follow the step before it. {_damaged(path)}")
        part = EditsPart(hparams, step.entry["edits"], step.entry["state"], step.tensors)
        if case_ids is not None:
            _check_cases(path, [edit["case_id"] for edit in part.edits], case_ids[n_edits:], n_edits)
        n_edits += len(part.edits)
        steps.append(part)


def step_entries(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the entry of each step's file (``edits``, ``state``); tensors are not read.

    Raises:
        RunError: a file cannot be read.
    """
    for number in range(1, step_count(folder) + 1):
        yield _read(step_file(folder, number), with_tensors=False).entry


def digest_of_step(path: Path) -> str:
    """Return the chained digest that a step's file holds; its content is not checked.

    Raises:
        RunError: the file cannot be read.
    """
    return _read(path, with_tensors=False).digest


def chained_digest(before: str, entry: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the digest of a step's entry and tensors, chained to the digest of the previous step."""
    digest = hashlib.sha256(f"{before}\n{entry}\n".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path, *, with_tensors: bool = True) -> _StepFile:
    """Read a step's file.

    Args:
        path: the file.
        with_tensors: whether to read the tensors, too.

    Raises:
        RunError: the file cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text, digest = (file.metadata() or {})["step"], file.metadata()["digest"]
            tensors = {name: file.get_tensor(name) for name in file.keys()} if with_tensors else {}  # noqa: SIM118
        check_finite(tensors)
        entry = parse_json(text)
        if not isinstance(entry["state"], dict) or not entry["edits"]:
            raise ValueError("it holds no edits, or its state is not a mapping")
        for edit in entry["edits"]:
            EditRecord.from_dict(edit, path)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise RunError(f"{path}: can't be read: {error}. {_damaged(path)}") from error
    return _StepFile(entry, text, digest, tensors)


def _check_cases(path: Path, case_ids: Sequence[Any], expected: Sequence[int | str], before: int) -> None:
    """Check that a step holds the edits of the expected cases.

    Args:
        path: the step's file.
        case_ids: the cases of the step.
        expected: the cases that the journal lists from this step on.
        before: the number of edits before this step.

    Raises:
        RunError: the step holds other edits.
    """
    for number, case_id in enumerate(case_ids):
        if number >= len(expected):
            raise RunError(
                f"{path}: holds {counted(len(case_ids), 'edit')}, of which the run's journal lists the first "
                f"{len(expected)} only. The state belongs to another run."
            )
        if case_id != expected[number]:
            raise RunError(
                f"{path}: is the edit of case {case_id}, but edit {before + number + 1} of the run's journal is that "
                f"of case {expected[number]}. The state belongs to another run."
            )


def _damaged(path: Path) -> str:
    """Return the last sentence of a message about a step's file that can't be used."""
    return f"The state in {path.parent} is incomplete or damaged."
