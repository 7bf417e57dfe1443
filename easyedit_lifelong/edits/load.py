"""Load edits onto a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from easyedit_lifelong.edits.edits_hub import edits_folder
from easyedit_lifelong.edits.parts import method_of, read_edits
from easyedit_lifelong.errors import PluginError, RunError
from easyedit_lifelong.methods.edit_stores import EditsPart
from easyedit_lifelong.methods.shared.editors import base_fingerprint
from easyedit_lifelong.methods.shared.rollback import Rollback
from easyedit_lifelong.models.load import model_label


def load_edits(model: Any, folder: str | Path, tokenizer: Any = None, *, check_weights: bool = True) -> Rollback[Any]:
    """Put saved edits on the model that they were made on; its logits are then bitwise the edited model's.

    Args:
        model: the unedited model, or one with edits on other layers. It is changed in place.
        folder: what :func:`save_edits` wrote, a run's ``state/``, or ``hub:OWNER/NAME[@REVISION]`` for edits on the
            Hugging Face Hub.
        tokenizer: the model's, for those who edit on without naming it again.
        check_weights: refuse a model with other weights. False for the same weights in another dtype: answers are
            then those of the edited model up to that dtype's rounding.

    Returns:
        What takes the edits off again when it is called; its ``results`` are the edits' records, in order.

    Raises:
        RunError: the folder isn't whole, of a newer format, or of a model with other weights; or the Hub hasn't got
            it (:class:`~easyedit_lifelong.errors.HubError`). Then the model is as it was.
        ModelError: the model lacks what was edited.
        EditError: the model carries edits in their place already.
        PluginError: no method of that name is registered.
    """
    saved = read_edits(edits_folder(folder))
    if check_weights and saved.fingerprint != base_fingerprint(model):
        raise RunError(
            f"{saved.path}: these edits were made on {saved.model!r}, whose weights aren't those of this "
            f"{model_label(model)!r} (the fingerprints differ). Load the same model in the same dtype. (In Python, "
            "check_weights=False loads them if the weights differ in their dtype alone.)"
        )
    undo: list[Callable[[], None]] = []
    try:
        for method, part in saved.parts:
            undo.append(_attach(model, tokenizer, method, part, str(saved.path)))
    except BaseException:
        _take_off(undo)
        raise
    results = [edit for _, part in saved.parts for edit in part.edits]
    return Rollback(lambda: _take_off(undo), on_items=False, results=results)


def _attach(model: Any, tokenizer: Any, name: str, part: EditsPart, where: str) -> Callable[[], None]:
    method = method_of(name, where)
    if method.edits is None:
        raise PluginError(f"{where}: method {method.name!r} can't put saved edits on a model")
    return method.edits.attach(model, tokenizer, part, where)


def _take_off(undo: list[Callable[[], None]]) -> None:
    while undo:
        undo[-1]()
        undo.pop()  # not before: what couldn't be taken off can be tried again
