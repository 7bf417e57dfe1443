"""The state folders of CoachHook runs that version 0.1 wrote: read, never written.

``coachhook.json`` describes the batches in order; each names its file ``batch-NAME.safetensors`` with its updates.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.edit_stores import EditsPart, OldState
from easyedit_lifelong.methods.shared.old_state_index import check_whole, read_index

INDEX = "coachhook.json"
FILES = (INDEX, "batch-*.safetensors")

_CALLED = "CoachHook edits"
_PARTS: dict[str, type] = {"model": str, "fingerprint": str, "settings": dict, "templates": list, "batches": list}
_BATCH_PARTS: dict[str, type] = {"file": str, "edits": list, "prompts": list, "alphas": dict, "ordinary": dict}


def read_old_state(folder: Path, case_ids: Sequence[int | str] | None, *, tensors: bool) -> OldState | None:
    """Return the batches of a state folder; see :class:`~easyedit_lifelong.methods.edit_stores.AppendableEditStore`."""
    path = folder / INDEX
    if not path.exists():
        return None
    _, index = read_index(path, "CoachHook", 1, _CALLED)
    if index.get("batches") == []:  # rolled back to the unedited model
        return OldState(path, "", "", {}, [])
    check_whole(path, index, _PARTS if tensors else {"batches": list}, _CALLED)
    hparams = {"model_name": index.get("model"), "alg_name": "CoachHook", **index.get("settings", {})}
    steps: list[EditsPart] = []
    found: list[Any] = []
    for entry in index["batches"]:
        check_whole(path, entry, _BATCH_PARTS if tensors else {"edits": list, "alphas": dict}, _CALLED)
        if case_ids is not None and len(found) >= len(case_ids):
            break
        batch = {name: entry.get(name) for name in ("alphas", "ordinary", "prompts")}
        state = {"templates": index.get("templates"), "batches": [{"edits": len(entry["edits"]), **batch}]}
        steps.append(
            EditsPart(hparams, entry["edits"], state, _tensors(folder / Path(entry["file"]).name) if tensors else {})
        )
        found += [edit.get("case_id") if isinstance(edit, dict) else None for edit in entry["edits"]]
    if case_ids is not None and found != list(case_ids):
        raise RunError(
            f"{path}: doesn't hold the edits that the run's journal lists ({len(found)} against {len(case_ids)}, or "
            "others). The state belongs to another run."
        )
    return OldState(path, index.get("model", ""), index.get("fingerprint", ""), index.get("settings", {}), steps)


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{file}: can't be read: {error}. The state in {file.parent} isn't whole.") from error
