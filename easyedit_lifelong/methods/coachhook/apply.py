"""The apply function of CoachHook, with the signature that EasyEdit expects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from easyedit_lifelong.methods.coachhook.config import CoachHookHyperParams
from easyedit_lifelong.methods.coachhook.editor import CoachHookEditor
from easyedit_lifelong.methods.shared.apply import apply_requests
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

    If the model has CoachHook edits already, the new batches are added to them.

    Args:
        model: a causal language model. It is edited in place. Its weights change only with ``wohk``.
        tok: its tokenizer.
        requests: dicts with EasyEdit's fields, or :class:`EditRequest` objects. Each needs a subject.
        hparams: the hyperparameters.
        copy: edit a copy of the model instead.
        return_orig_weights: accepted because EasyEdit passes it; a rollback is always returned.
        keep_original_weight: whether iterating over the rollback's ``.items()`` rolls back, as EasyEdit's 2023
            release expects. Calling the rollback always does.
        **kwargs: ignored. EasyEdit passes the arguments of all methods to every method.

    Returns:
        The edited model, and a :class:`Rollback` whose ``results`` has the result of each request.

    Raises:
        DataError: a request cannot be used.
        ModelError: the model lacks a layer that the hyperparameters name.
        EditError: a batch failed. Then no request has been applied.
    """
    return apply_requests(
        CoachHookEditor.on, model, tok, requests, hparams, copy=copy, keep_original_weight=keep_original_weight
    )
