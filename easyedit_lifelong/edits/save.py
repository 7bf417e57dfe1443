"""Save the edits that a model carries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from easyedit_lifelong.edits.parts import write_edits
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.shared.editors import base_fingerprint
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.plugins import get_plugins


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
    parts = [
        (method.name, part)
        for method in get_plugins().methods
        if method.edits is not None
        for part in method.edits.parts(edited_model)
    ]
    if not parts:
        raise EditError("the model carries no edits that could be saved")
    write_edits(Path(folder).expanduser(), model_label(edited_model), base_fingerprint(edited_model), parts)
