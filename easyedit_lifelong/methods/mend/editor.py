"""The editor of MEND, and its apply function with the signature that EasyEdit expects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from easyedit_lifelong.methods.hypernetworks.editor import HypernetworkEditor
from easyedit_lifelong.methods.mend.config import MendHyperParams
from easyedit_lifelong.methods.mend.network import MendNetwork
from easyedit_lifelong.methods.shared.apply import apply_requests
from easyedit_lifelong.methods.shared.results import EditResult
from easyedit_lifelong.methods.shared.rollback import Rollback


class MendEditor(HypernetworkEditor):
    """Edits a model's weights with a trained MEND (arXiv 2110.11309). Get it with :meth:`on`."""

    hparams_class = MendHyperParams
    network_class = MendNetwork


def apply_mend_to_model(
    model: Any,
    tok: Any,
    requests: Sequence[Any],
    hparams: MendHyperParams,
    copy: bool = False,
    return_orig_weights: bool = True,
    keep_original_weight: bool = False,
    **kwargs: Any,
) -> tuple[Any, Rollback[EditResult]]:
    """Edit a model with a trained MEND, in batches of ``hparams.batch_size``. Requests need no subject.

    Otherwise, arguments, result and errors are those of
    :func:`~easyedit_lifelong.methods.memit.editor.apply_memit_to_model`.

    Raises:
        HyperParameterError: ``hparams.archive`` is not the folder of a trained MEND, or of one with other settings.
        ModelError: MEND was trained for another model.
    """
    return apply_requests(
        MendEditor.on, model, tok, requests, hparams, copy=copy, keep_original_weight=keep_original_weight
    )
