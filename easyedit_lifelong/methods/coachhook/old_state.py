"""Read the state folders of CoachHook runs that version 0.1 of this package wrote.

``coachhook.json`` lists the batches in order. Each entry names the file, ``batch-NAME.safetensors``, with its updates.
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
from easyedit_lifelong.methods.shared.old_state_index import check_fields, read_index

INDEX = "coachhook.json"
FILES = (INDEX, "batch-*.safetensors")

_CONTENT = "CoachHook edits"
_INDEX_FIELDS = {"model": str, "fingerprint": str, "settings": dict, "templates": list, "batches": list}
_BATCH_FIELDS = {"file": str, "edits": list, "prompts": list, "alphas": dict, "ordinary": dict}


def read_old_state(folder: Path, case_ids: Sequence[int | str] | None, *, tensors: bool) -> OldState | None:
    """Return the batches of a state folder; see :class:`~easyedit_lifelong.methods.edit_stores.OldStateReader`."""
    path = folder / INDEX
    if not path.exists():
        return None
    index = read_index(path, "CoachHook", 1, _CONTENT)
    if index.get("batches") == []:  # rolled back to the unedited model
        return OldState(path, "", "", {}, [])
    check_fields(path, index, _INDEX_FIELDS if tensors else {"batches": list}, _CONTENT)
    hparams = {"model_name": index.get("model"), "alg_name": "CoachHook", **index.get("settings", {})}
    steps: list[EditsPart] = []
    found_case_ids: list[Any] = []
    for entry in index["batches"]:
        check_fields(path, entry, _BATCH_FIELDS if tensors else {"edits": list, "alphas": dict}, _CONTENT)
        if case_ids is not None and len(found_case_ids) >= len(case_ids):
            break
        batch = {name: entry.get(name) for name in ("alphas", "ordinary", "prompts")}
        state = {"templates": index.get("templates"), "batches": [{"edits": len(entry["edits"]), **batch}]}
        updates = _read_updates(folder / Path(entry["file"]).name) if tensors else {}
        steps.append(EditsPart(hparams, entry["edits"], state, updates))
        found_case_ids += [edit.get("case_id") if isinstance(edit, dict) else None for edit in entry["edits"]]
    if case_ids is not None and found_case_ids != list(case_ids):
        raise RunError(
            f"{path}: its {len(found_case_ids)} edits aren't the {len(case_ids)} edits of the run's journal. The state "
            "belongs to another run."
        )
    return OldState(path, index.get("model", ""), index.get("fingerprint", ""), index.get("settings", {}), steps)


def _read_updates(file: Path) -> dict[str, Tensor]:
    """Read the updates of a batch."""
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{file}: can't be read: {error}. The state in {file.parent} isn't complete.") from error
