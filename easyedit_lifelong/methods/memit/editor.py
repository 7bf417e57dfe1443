"""The MEMIT editor of a model, and EasyEdit's apply function for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from easyedit_lifelong.methods.locate_edit.editor import WeightEditor
from easyedit_lifelong.methods.locate_edit.history import Batch
from easyedit_lifelong.methods.locate_edit.update import SeparateBatches
from easyedit_lifelong.methods.memit.config import NativeMemitHyperParams
from easyedit_lifelong.methods.shared.apply import apply_with
from easyedit_lifelong.methods.shared.results import EditResult
from easyedit_lifelong.methods.shared.rollback import Rollback


class MemitEditor(WeightEditor[Batch]):
    """Edits a model's weights with MEMIT (arXiv 2210.07229, section 4). Get it with :meth:`on`.

    For each layer from the first to the last, with the keys K of the batch, R = (z - h)/(layers left) and the second
    moments C₀ = E[kkᵀ] of ordinary text:

        Δ = R Kᵀ (λ C₀ + K Kᵀ)⁻¹,    W ← W + Δ

    As upstream, a batch does not know the keys of earlier ones.
    """

    hparams_class = NativeMemitHyperParams
    solver_class = SeparateBatches


def apply_memit_to_model(
    model: Any,
    tok: Any,
    requests: Sequence[Any],
    hparams: NativeMemitHyperParams,
    copy: bool = False,
    return_orig_weights: bool = True,
    keep_original_weight: bool = False,
    **kwargs: Any,
) -> tuple[Any, Rollback[EditResult]]:
    """Edit a model with MEMIT, in batches of ``hparams.batch_size``.

    Args:
        model: a causal language model. Its weights are edited in place.
        tok: its tokenizer.
        requests: requests in EasyEdit's fields, or :class:`EditRequest` objects, each with its subject.
        hparams: the hyperparameters.
        copy: edit a copy of the model instead.
        return_orig_weights: EasyEdit passes it; the rollback is always returned.
        keep_original_weight: whether walking the rollback's ``.items()`` rolls back, as EasyEdit's 2023 release
            expects. Calling the rollback always does.
        **kwargs: EasyEdit passes other methods' arguments to every method; they are ignored.

    Returns:
        The edited model, and a :class:`Rollback` whose ``results`` say what was done per request.

    Raises:
        DataError: a request cannot be used.
        ModelError: the model has no such layers.
        EditError: a batch failed. Then none of these requests has been applied.
    """
    return apply_with(
        lambda edited: MemitEditor.on(edited, tok, hparams),
        model,
        requests,
        copy=copy,
        keep_original_weight=keep_original_weight,
    )
