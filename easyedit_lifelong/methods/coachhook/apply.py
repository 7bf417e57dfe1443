"""Apply CoachHook to a model: EasyEdit's apply function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from easyedit_lifelong.methods.coachhook.config import CoachHookHyperParams
from easyedit_lifelong.methods.coachhook.editor import CoachHookEditor
from easyedit_lifelong.methods.shared.apply import apply_with
from easyedit_lifelong.methods.shared.results import EditResult
from easyedit_lifelong.methods.shared.rollback import Rollback


def apply_coachhook_to_model(
    model: Any,
    tok: Any,
    requests: Sequence[Any],
    hparams: CoachHookHyperParams,
    copy: bool = False,
    return_orig_weights: bool = True,
    keep_original_weight: bool = False,
    **kwargs: Any,
) -> tuple[Any, Rollback[EditResult]]:
    """Edit a model with CoachHook, in batches of ``hparams.batch_size``.

    A model that already carries CoachHook edits gets the new batches upon them.

    Args:
        model: a causal language model. It is edited in place; its weights are touched with ``wohk`` only.
        tok: its tokenizer.
        requests: requests in EasyEdit's fields, or :class:`EditRequest` objects, each with its subject.
        hparams: CoachHook's hyperparameters.
        copy: edit a copy of the model instead.
        return_orig_weights: taken for EasyEdit's sake; the way back is always returned.
        keep_original_weight: whether walking the rollback's ``.items()`` undoes the edits, as
            EasyEdit's 2023 release means it. Calling the rollback always does.
        **kwargs: EasyEdit passes other methods' arguments to every method; they are ignored.

    Returns:
        The edited model, and a :class:`Rollback` whose ``results`` hold what was done per request.

    Raises:
        DataError: a request can't be used.
        ModelError: the model has no such layers.
        EditError: a batch failed. Then none of these requests has been applied.
    """
    return apply_with(
        lambda edited: CoachHookEditor.on(edited, tok, hparams),
        model,
        requests,
        copy=copy,
        keep_original_weight=keep_original_weight,
    )
