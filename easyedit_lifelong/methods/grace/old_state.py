"""Read the state folders of GRACE runs that version 0.1 wrote.

``grace.json`` describes the edits. ``edit-NNNNNN.safetensors`` holds the codebook rows that edit NNNNNN changed, with a
digest of this file and all files before it. ``whitening.safetensors`` holds the whitening matrix, if keys are whitened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.edit_stores import EditsPart, OldState
from easyedit_lifelong.methods.grace.codebook.codebook_arrays import ARRAY_NAMES
from easyedit_lifelong.methods.shared.old_state_index import check_fields, read_index
from easyedit_lifelong.parsing import parse_json

INDEX = "grace.json"
FILES = (INDEX, "edit-*.safetensors", "whitening.safetensors")

_DESCRIPTION = "GRACE edits"
_FIELDS: dict[str, type] = {"model": str, "fingerprint": str, "layer": str, "settings": dict, "replay": dict}


def read_old_state(folder: Path, case_ids: Sequence[int | str] | None, *, tensors: bool) -> OldState | None:
    """Return the edits of a state folder; None if the folder holds no GRACE edits of version 0.1.

    Args:
        folder: the state folder.
        case_ids: the case_ids of the run's journal: as many edits are read, and must be of these cases. None to read
            all edits.
        tensors: whether to return the tensors, too.

    Raises:
        RunError: a file is missing or damaged, or belongs to another run.
    """
    path = folder / INDEX
    if not path.exists():
        return None
    index = read_index(path, "GRACE", 1, _DESCRIPTION)
    check_fields(path, index, _FIELDS, _DESCRIPTION)
    settings = {"inner_params": [index["layer"]], **index["settings"]}
    hparams = {"model_name": index["model"], "alg_name": "GRACE", **settings}
    replay = index["replay"]
    state = {"in_part": replay.get("in_part"), "checked_length": replay.get("checked_length", 0)}
    digest = ""
    if "gate_size" in index:  # edits by subject: their chain of digests begins with gate size and whitening
        state["gate_size"] = index["gate_size"]
        digest = f"{index['gate_size']} {index.get('whitening')}"
    whitening = _read_whitening(folder, index["whitening"]) if index.get("whitening") is not None else {}
    n_edits = _last_number(folder) if case_ids is None else len(case_ids)
    steps: list[EditsPart] = []
    for number in range(1, n_edits + 1):
        file = folder / f"edit-{number:06d}.safetensors"
        entry, contents, digest = _read_edit(file, digest)
        if case_ids is not None and entry["edit"]["case_id"] != case_ids[number - 1]:
            raise RunError(
                f"{file}: is the edit of case {entry['edit']['case_id']}, but edit {number} of the run's journal is "
                f"that of case {case_ids[number - 1]}. The state belongs to another run."
            )
        changed: dict[str, Any] = {"keys": entry["rows"], "labels": entry["labels"]}
        if "query" in contents:
            changed["query"], contents["queries"] = 0, contents.pop("query").unsqueeze(0)
        if not steps:  # the first step holds the whitening
            contents |= whitening
        steps.append(EditsPart(hparams, [entry["edit"]], {"changed": [changed], **state}, contents if tensors else {}))
    return OldState(path, index["model"], index["fingerprint"], settings, steps)


def _last_number(folder: Path) -> int:
    """Return the number of the last edit file; 0 without files. Reading the files finds gaps between them."""
    names = [path.stem.removeprefix("edit-") for path in folder.glob("edit-*.safetensors")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def _read_edit(path: Path, previous_digest: str) -> tuple[dict[str, Any], dict[str, Tensor], str]:
    """Return an edit's entry, its tensors, and the digest of its file.

    Raises:
        RunError: the file can't be read, or its digest is wrong.
    """
    consequence = f"The state in {path.parent} isn't whole."
    try:
        with safe_open(path, framework="pt") as file:
            text, digest = (file.metadata() or {})["edit"], file.metadata()["digest"]
            names = (*ARRAY_NAMES, *({"query"} & set(file.keys())))
            tensors = {name: file.get_tensor(name) for name in names}
        entry = parse_json(text)
        _ = entry["edit"]["case_id"], entry["rows"], entry["labels"]  # raises an error if one of them is missing
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise RunError(f"{path}: can't be read: {error}. {consequence}") from error
    if digest != _chained_digest(previous_digest, text, tensors):
        raise RunError(f"{path}: has been changed, or doesn't follow the edit before it. {consequence}")
    return entry, tensors, digest


def _read_whitening(folder: Path, digest: object) -> dict[str, Tensor]:
    """Return the whitening matrix, by its name.

    Raises:
        RunError: the file can't be read, or has another digest.
    """
    path, consequence = folder / "whitening.safetensors", f"The state in {folder} isn't whole."
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {"whitening": file.get_tensor("whitening")}
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path}: can't be read: {error}. {consequence}") from error
    if _chained_digest("", "whitening", tensors) != digest:
        raise RunError(f"{path}: has been changed, or is another run's. {consequence}")
    return tensors


def _chained_digest(previous_digest: str, entry: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the digest of an entry and its tensors, chained to the digest before it."""
    digest = hashlib.sha256(f"{previous_digest}\n{entry}\n".encode())
    for tensor in tensors.values():
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
