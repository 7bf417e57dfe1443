"""Apply GRACE to a model: EasyEdit's apply function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from easyedit_lifelong.errors import DataError
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.methods.shared.apply import apply_with
from easyedit_lifelong.methods.shared.results import EditResult
from easyedit_lifelong.methods.shared.rollback import Rollback


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
    """Edit a model with GRACE, one request after the other.

    A model that already carries GRACE edits on the same layer gets further ones in the same codebook.

    Args:
        model: a causal language model. It is edited in place, and its weights are never touched.
        tok: its tokenizer.
        requests: requests in EasyEdit's fields, or :class:`EditRequest` objects.
        hparams: GRACE's hyperparameters.
        copy: edit a copy of the model instead.
        return_orig_weights: taken for EasyEdit's sake; the way back is always returned.
        keep_original_weight: whether walking the rollback's ``.items()`` undoes the edits, as
            EasyEdit's 2023 release means it. Calling the rollback always does.
        **kwargs: EasyEdit passes other methods' arguments to every method; they are ignored.

    Returns:
        The edited model, and a :class:`Rollback` whose ``results`` hold what was done per request.

    Raises:
        DataError: a request can't be used.
        ModelError: the model has no such layer.
        EditError: an edit failed. Then none of these requests has been applied.
    """
    return apply_with(
        lambda edited: GraceEditor.on(edited, tok, hparams),
        model,
        requests,
        copy=copy,
        keep_original_weight=keep_original_weight,
    )


def apply_grace_to_module(
    module: nn.Module, inputs: Tensor, labels: Sequence[int] | Tensor, hparams: GraceHyperParams
) -> tuple[nn.Module, Rollback[EditResult]]:
    """Have a plain module give some inputs other classes, one edit for each, in order.

    The module can be anything that maps a tensor ``(batch, …)`` to class logits ``(batch, classes)``. At a layer
    from ``(batch, width)`` every row is looked up in the codebook; at one from ``(batch, tokens, width)`` every
    row's last token.

    Args:
        module: it is edited in place; its weights aren't touched.
        inputs: what should be classified otherwise, shape ``(examples, …)``.
        labels: the classes, as many.
        hparams: GRACE's hyperparameters; ``inner_params`` names a layer of the module.

    Returns:
        The module, and a :class:`Rollback` whose ``results`` hold what was done per example.

    Raises:
        DataError: there are no examples, or not as many labels.
        ModelError: the module has no such layer.
        EditError: an edit failed. Then none of these examples has been edited.
    """
    classes = [int(label) for label in labels]
    if not classes or len(classes) != len(inputs):
        raise DataError(f"there are {len(inputs)} inputs and {len(classes)} labels; each input needs one")
    results, undo = GraceEditor.on(module, None, hparams).edit_rows(inputs, classes)
    return module, Rollback(undo, on_items=False, results=results)
