"""The editor of the native MEMIT, and its apply function with the signature that EasyEdit expects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from easyedit_lifelong.methods.locate_edit.target_variants import TargetVariantsEditor
from easyedit_lifelong.methods.locate_edit.update import AccumulatedKeys, SeparateBatches
from easyedit_lifelong.methods.memit.config import NativeMemitHyperParams
from easyedit_lifelong.methods.shared.apply import apply_requests
from easyedit_lifelong.methods.shared.results import EditResult
from easyedit_lifelong.methods.shared.rollback import Rollback


class MemitEditor(TargetVariantsEditor):
    """Edits a model's weights with MEMIT (arXiv 2210.07229, section 4). Get it with :meth:`on`.

    For each layer from the first to the last, with the keys K of the batch, the residual R = (z - h)/(layers left) and
    the second moment C₀ = E[kkᵀ] of ordinary text:

        Δ = R Kᵀ (λ C₀ + K Kᵀ)⁻¹,    W ← W + Δ

    As in the authors' code, the update of a batch does not depend on the keys of earlier batches. With
    ``accumulate_keys``, K' K'ᵀ is added to λ C₀, where K' are the keys of all earlier batches.
    """

    hparams_class = NativeMemitHyperParams
    hparams: NativeMemitHyperParams

    @property
    def solver_class(self) -> type[AccumulatedKeys]:
        """The class of the solvers."""
        return AccumulatedKeys if self.hparams.accumulate_keys else SeparateBatches


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
        MemitEditor.on, model, tok, requests, hparams, copy=copy, keep_original_weight=keep_original_weight
    )
