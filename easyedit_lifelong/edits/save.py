"""Save the edits of a model to a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from easyedit_lifelong.edits.appended_steps import append_new_edits, remember_saved
from easyedit_lifelong.edits.folder_parts import write_edits
from easyedit_lifelong.errors import EditError, RunError
from easyedit_lifelong.methods.shared.editors import base_fingerprint
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.models.model_lock import model_lock
from easyedit_lifelong.paths import expanded_path
from easyedit_lifelong.plugins import get_plugins


def save_edits(edited_model: Any, folder: str | Path) -> None:
    """Save all edits of a model, of every method and layer, to a folder. The model itself is not saved.

    The folder has two files: ``edits.json`` (the requests with their times, the hyperparameters, the model's name, the
    fingerprint of its unedited weights, package versions) and ``edits.safetensors``. :func:`load_edits` loads them onto
    the same model in another process, without EasyEdit. If the folder holds more than 10,000 edits of GRACE, and the
    model has these, as it loaded or saved them, and further ones, only the further ones are written.
    ``edited_model.save_edits(folder)`` is the same as this function.

    Args:
        edited_model: the model.
        folder: the folder; edits that it holds are replaced, in one step.

    Raises:
        EditError: the model carries no edits.
        RunError: the folder can't be written, or is the state folder of a run.
    """
    folder = expanded_path(folder, RunError)
    with model_lock(edited_model):
        if append_new_edits(edited_model, folder):
            return
        parts = [
            (method.name, part)
            for method in get_plugins().methods
            if method.edits is not None
            for part in method.edits.parts(edited_model)
        ]
        if not parts:
            raise EditError("the model carries no edits that could be saved")
        index = write_edits(folder, model_label(edited_model), base_fingerprint(edited_model), parts)
        remember_saved(edited_model, folder, index)
