"""The files of a run's edits: one for each step, written once and never changed.

Every file carries a digest of itself and of all files before it. So files of two histories, or a damaged one, do not
pass for one sequence. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from easyedit_lifelong.atomic import replacing
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.edit_stores import EditsPart
from easyedit_lifelong.methods.shared.records import EditRecord

_NAME = "step-{:06d}.safetensors"


def step_file(folder: Path, number: int) -> Path:
    """Return the file of a step, counted from 1."""
    return folder / _NAME.format(number)


def step_count(folder: Path) -> int:
    """Return the number of the last step in a folder; a gap shows when the missing file is read."""
    names = [path.stem.removeprefix("step-") for path in folder.glob("step-*.safetensors")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def write_step(path: Path, part: EditsPart, before: str) -> str:
    """Write a step's file.

    Args:
        path: the file.
        part: the step; its hyperparameters are in the folder's index.
        before: the digest of the file before it; empty for the first.

    Returns:
        The digest of this file and of all before it.

    Raises:
        OSError: it cannot be written.
    """
    text = json.dumps({"edits": part.edits, "state": part.state}, ensure_ascii=False)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in part.tensors.items()}
    digest = chained_digest(before, text, tensors)
    with replacing(path) as temporary:
        temporary.write_bytes(to_bytes(tensors, {"step": text, "digest": digest}))
    return digest


def read_steps(
    folder: Path, hparams: dict[str, Any], case_ids: Sequence[int | str] | None = None
) -> tuple[list[EditsPart], str]:
    """Return a folder's steps, each as a part, and the digest of the last.

    Args:
        folder: the folder.
        hparams: the hyperparameters that all parts get.
        case_ids: read only the first steps, which must be the edits of these cases in order. None: all of them.

    Raises:
        RunError: a file cannot be read, does not follow the one before it, or holds other edits.
    """
    steps: list[EditsPart] = []
    digest, found = "", 0
    last = step_count(folder)
    while found < len(case_ids) if case_ids is not None else len(steps) < last:
        path = step_file(folder, len(steps) + 1)
        entry, text, written, tensors = _read(path)
        digest = chained_digest(digest, text, tensors)
        if written != digest:
            raise RunError(f"{path}: has been changed, or doesn't follow the step before it. {_incomplete(path)}")
        part = EditsPart(hparams, entry["edits"], entry["state"], tensors)
        if case_ids is not None:
            _check_cases(path, [edit["case_id"] for edit in part.edits], case_ids[found:], found)
        found += len(part.edits)
        steps.append(part)
    return steps, digest


def step_entries(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield what each step's file says of its edits (``edits``, ``state``), without its tensors.

    Raises:
        RunError: a file cannot be read.
    """
    for number in range(1, step_count(folder) + 1):
        yield _read(step_file(folder, number), with_tensors=False)[0]


def chained_digest(before: str, entry: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the digest of an entry and its tensors, and of all that was digested before them."""
    digest = hashlib.sha256(f"{before}\n{entry}\n".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path, *, with_tensors: bool = True) -> tuple[dict[str, Any], str, str, dict[str, Tensor]]:
    """Return a file's entry, the entry's text, its digest and its tensors."""
    try:
        with safe_open(path, framework="pt") as file:
            text, digest = (file.metadata() or {})["step"], file.metadata()["digest"]
            tensors = {name: file.get_tensor(name) for name in file.keys()} if with_tensors else {}  # noqa: SIM118
        entry = json.loads(text)
        if not isinstance(entry["state"], dict) or not entry["edits"]:
            raise ValueError("it holds no edits, or its state is of another kind")
        for edit in entry["edits"]:
            EditRecord.from_dict(edit, path)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise RunError(f"{path}: can't be read: {error}. {_incomplete(path)}") from error
    return entry, text, digest, tensors


def _check_cases(path: Path, found: Sequence[Any], expected: Sequence[int | str], before: int) -> None:
    for number, case_id in enumerate(found):
        if number >= len(expected):
            raise RunError(
                f"{path}: holds {len(found)} edits, of which the run's journal lists the first {len(expected)} only. "
                "The state belongs to another run."
            )
        if case_id != expected[number]:
            raise RunError(
                f"{path}: is the edit of case {case_id}, but edit {before + number + 1} of the run's journal is that "
                f"of case {expected[number]}. The state belongs to another run."
            )


def _incomplete(path: Path) -> str:
    return f"The state in {path.parent} isn't whole."
