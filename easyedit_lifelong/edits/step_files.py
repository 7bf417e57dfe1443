"""Write and read the step files of a state folder: one file for each step, written once and never changed.

Every file holds a digest of its content and of all files before it. So a damaged, missing or foreign file is detected.
Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor

from easyedit_lifelong.atomic import atomic_file
from easyedit_lifelong.edits.folder_tensors import check_finite
from easyedit_lifelong.edits.step_entries import STEP, damaged_state, open_step, step_count, step_file
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.edit_stores import EditsPart
from easyedit_lifelong.plurals import counted


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
        with open_step(path, "pt") as (step, file):
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            check_finite(tensors)
        digest = chained_digest(digest, step.text, tensors)
        if step.digest != digest:
            raise RunError(f"{path}: has been changed, or doesn't follow the step before it. {damaged_state(path)}")
        part = EditsPart(hparams, step.edits, step.state, tensors)
        if case_ids is not None:
            _check_cases(path, [edit["case_id"] for edit in part.edits], case_ids[n_edits:], n_edits)
        n_edits += len(part.edits)
        steps.append(part)


def chained_digest(before: str, entry: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the digest of a step's entry and tensors, chained to the digest of the previous step."""
    digest = hashlib.sha256(f"{before}\n{entry}\n".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


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
