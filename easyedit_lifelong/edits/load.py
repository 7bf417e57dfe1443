"""Load saved edits onto a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from easyedit_lifelong.edits.appended_steps import remember_saved
from easyedit_lifelong.edits.edits_folder import MANY_VERSION
from easyedit_lifelong.edits.edits_hub import edits_folder
from easyedit_lifelong.edits.folder_parts import method_of, read_edits
from easyedit_lifelong.errors import PluginError, RunError
from easyedit_lifelong.methods.edit_stores import EditsPart
from easyedit_lifelong.methods.shared.editors import base_fingerprint
from easyedit_lifelong.methods.shared.rollback import Rollback
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.models.model_lock import holding_lock, model_lock


def load_edits(model: Any, folder: str | Path, tokenizer: Any = None, *, check_weights: bool = True) -> Rollback[Any]:
    """Load saved edits onto the model that they were made on. Its logits are then bitwise the edited model's.

    If loading fails, the model is not changed.

    Args:
        model: the unedited model, or one with edits on other layers. It is changed in place.
        folder: a folder that :func:`save_edits` wrote, a run's ``state/``, or ``hub:OWNER/NAME[@REVISION]`` for edits
            on the Hugging Face Hub.
        tokenizer: the model's tokenizer; needed by edits that read words (GRACE's with ``named_eps``, IKE's and
            SERAC's with a sentence encoder), and for further edits that don't name it again.
        check_weights: refuse a model with other weights. Use False for the same weights in another dtype: the answers
            then equal the edited model's up to the rounding of that dtype.

    Returns:
        A rollback: calling it removes the edits from the model. Its ``results`` are the records of the edits, in
        order.

    Raises:
        RunError: the folder is incomplete or damaged, has a newer format, or belongs to a model with other weights; or
            the edits can't be pulled from the Hub (:class:`~easyedit_lifelong.errors.HubError`).
        ModelError: the model lacks a layer that was edited.
        EditError: the model carries edits in the same place already.
        PluginError: the edits' method is not registered, or can't load edits.
    """
    local_folder = edits_folder(folder)
    saved = read_edits(local_folder)
    if check_weights and saved.fingerprint != base_fingerprint(model):
        raise RunError(
            f"{saved.path}: these edits were made on {saved.model!r}, whose weights aren't those of this "
            f"{model_label(model)!r} (the fingerprints differ). Load the same model in the same dtype. (In Python, "
            "check_weights=False loads them if the weights differ in their dtype alone.)"
        )
    detach_functions: list[Callable[[], None]] = []
    with model_lock(model):
        try:
            for method, part in saved.parts:
                detach_functions.append(_attach(model, tokenizer, method, part, str(saved.path)))
        except BaseException:
            _detach_all(detach_functions)
            raise
        if saved.index["format_version"] == MANY_VERSION:
            remember_saved(model, local_folder, saved.index, saved.appended)
    one_part = len(saved.parts) == 1
    results = saved.parts[0][1].edits if one_part else [edit for _, part in saved.parts for edit in part.edits]
    return Rollback(holding_lock(model, lambda: _detach_all(detach_functions)), on_items=False, results=results)


def _attach(model: Any, tokenizer: Any, name: str, part: EditsPart, where: str) -> Callable[[], None]:
    """Load one part onto a model, and return the function that removes it again."""
    method = method_of(name, where)
    if method.edits is None:
        raise PluginError(f"{where}: method {method.name!r} can't put saved edits on a model")
    return method.edits.attach(model, tokenizer, part, where)


def _detach_all(detach_functions: list[Callable[[], None]]) -> None:
    """Remove the parts of a folder from a model, the last one first."""
    while detach_functions:
        detach_functions[-1]()
        detach_functions.pop()  # only after the call: if it fails, the rollback can be called again
