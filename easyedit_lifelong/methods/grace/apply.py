"""Apply GRACE to a model, with the signature of EasyEdit's apply functions, or to a plain module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from easyedit_lifelong.errors import DataError
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.methods.shared.apply import apply_requests
from easyedit_lifelong.methods.shared.results import EditResult
from easyedit_lifelong.methods.shared.rollback import Rollback
from easyedit_lifelong.models.model_lock import holding_lock, model_lock


def apply_grace_to_model(
    model: Any,
    tok: Any,
    requests: Sequence[Any],
    hparams: GraceHyperParams,
    copy: bool = False,
    return_orig_weights: bool = True,
    keep_original_weight: bool = False,
    **kwargs: Any,
) -> tuple[Any, Rollback[EditResult]]:
    """Edit a model with GRACE (arXiv 2211.11031), request by request.

    If the layer carries GRACE edits already, the new edits go into the same codebook.

    Args:
        model: the model to edit in place. Its weights stay unchanged.
        tok: its tokenizer.
        requests: requests in EasyEdit's fields, or :class:`EditRequest` objects.
        hparams: GRACE's hyperparameters.
        copy: edit a copy of the model instead.
        return_orig_weights: accepted for compatibility with EasyEdit and ignored; the rollback is always returned.
        keep_original_weight: whether iteration over the rollback's ``.items()`` rolls the edits back, as EasyEdit's
            2023 release expects. A call of the rollback always rolls them back.
        **kwargs: ignored; EasyEdit passes other methods' arguments to every method.

    Returns:
        The edited model, and a :class:`Rollback` with one result per request in ``results``.

    Raises:
        DataError: a request can't be used.
        ModelError: the model has no such layer.
        EditError: an edit failed. Then none of these requests has been applied.
    """
    return apply_requests(
        GraceEditor.on, model, tok, requests, hparams, copy=copy, keep_original_weight=keep_original_weight
    )


def apply_grace_to_module(
    module: nn.Module, inputs: Tensor, labels: Sequence[int] | Tensor, hparams: GraceHyperParams
) -> tuple[nn.Module, Rollback[EditResult]]:
    """Edit a plain module with GRACE so that it assigns given classes to given inputs, one edit per input.

    The module can be any that maps a tensor ``(batch, …)`` to class logits ``(batch, classes)``. The query is the
    layer's input: each row of ``(batch, width)``, or the last token of each row of ``(batch, tokens, width)``.

    Args:
        module: the module to edit in place. Its weights stay unchanged.
        inputs: the inputs to assign a class to, shape ``(examples, …)``.
        labels: the class of each input.
        hparams: GRACE's hyperparameters; ``inner_params`` names a layer of the module.

    Returns:
        The module, and a :class:`Rollback` with one result per input in ``results``.

    Raises:
        DataError: there are no inputs, or the numbers of inputs and labels differ.
        ModelError: the module has no such layer.
        EditError: an edit failed. Then no input has been edited.
    """
    classes = [int(label) for label in labels]
    if not classes or len(classes) != len(inputs):
        raise DataError(f"there are {len(inputs)} inputs and {len(classes)} labels; each input needs one")
    with model_lock(module):
        results, undo = GraceEditor.on(module, None, hparams).edit_rows(inputs, classes)
    return module, Rollback(holding_lock(module, undo), on_items=False, results=results)
