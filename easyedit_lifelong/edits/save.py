"""Save the edits that a model carries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from easyedit_lifelong.clock import now
from easyedit_lifelong.edits.folder import write_folder
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.carried import base_fingerprint
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.versions import package_versions


def save_edits(edited_model: Any, folder: str | Path) -> None:
    """Write all edits that a model carries, of every method and layer, without the model.

    What is written: ``edits.json`` (the requests with their times, hyperparameters, the model's name and the
    fingerprint of its unedited weights, versions) and ``edits.safetensors``. :func:`load_edits` puts them on the
    same model in another process, without EasyEdit. ``edited_model.save_edits(folder)`` does the same.

    Args:
        edited_model: the model.
        folder: where to; edits that are there are replaced, in one step.

    Raises:
        EditError: the model carries no edits.
        RunError: they can't be written.
    """
    parts: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    for method in get_plugins().methods:
        for part in method.edits.parts(edited_model) if method.edits is not None else []:
            prefix = f"{len(parts)}."
            tensors |= {prefix + name: tensor for name, tensor in part.tensors.items()}
            parts.append({"method": method.name, "hparams": part.hparams, "edits": part.edits, "state": part.state})
    if not parts:
        raise EditError("the model carries no edits that could be saved")
    contents = {
        "saved": now(),
        "model": {"name": model_label(edited_model), "fingerprint": base_fingerprint(edited_model)},
        "versions": package_versions(),
        "parts": parts,
    }
    write_folder(Path(folder), contents, tensors)
