"""The editor of AlphaEdit, and its apply function with the signature that EasyEdit expects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from easyedit_lifelong.covariance import SecondMoment
from easyedit_lifelong.methods.alphaedit.config import AlphaEditHyperParams
from easyedit_lifelong.methods.locate_edit.null_space import null_space_solver
from easyedit_lifelong.methods.locate_edit.target_variants import TargetVariantsEditor
from easyedit_lifelong.methods.locate_edit.update import Solver
from easyedit_lifelong.methods.shared.apply import apply_requests
from easyedit_lifelong.methods.shared.results import EditResult
from easyedit_lifelong.methods.shared.rollback import Rollback


class AlphaEditEditor(TargetVariantsEditor):
    """Edits a model's weights with AlphaEdit (arXiv 2410.02355). Get it with :meth:`on`.

    Target vectors, keys and residuals are those of MEMIT. The solver of a layer is a
    :class:`~easyedit_lifelong.methods.locate_edit.null_space.NullSpaceKeys` or, with an evolving projector, an
    :class:`~easyedit_lifelong.methods.locate_edit.null_space.EvolvingNullSpace`. Its updates change no output for keys
    outside of the null space of C₀ = E[kkᵀ], and take the keys of earlier batches into account. Projector and keys are
    part of the editor, so two models, or two runs, never share them.
    """

    hparams_class = AlphaEditHyperParams
    hparams: AlphaEditHyperParams

    def make_solver(self, second_moment: SecondMoment, device: torch.device, dtype: torch.dtype) -> Solver:
        """Return the solver of one layer, without keys."""
        return null_space_solver(self.hparams, second_moment.moment, device, dtype)


def apply_alphaedit_to_model(
    model: Any,
    tok: Any,
    requests: Sequence[Any],
    hparams: AlphaEditHyperParams,
    copy: bool = False,
    return_orig_weights: bool = True,
    keep_original_weight: bool = False,
    **kwargs: Any,
) -> tuple[Any, Rollback[EditResult]]:
    """Edit a model with AlphaEdit, in batches of ``hparams.batch_size``.

    Arguments, result and errors are those of :func:`~easyedit_lifelong.methods.memit.editor.apply_memit_to_model`.
    """
    return apply_requests(
        AlphaEditEditor.on, model, tok, requests, hparams, copy=copy, keep_original_weight=keep_original_weight
    )
