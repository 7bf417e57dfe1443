"""The editor of KE, and its apply function with the signature that EasyEdit expects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from easyedit_lifelong.methods.hypernetworks.editor import HypernetworkEditor
from easyedit_lifelong.methods.ke.config import KEHyperParams
from easyedit_lifelong.methods.ke.network import KENetwork
from easyedit_lifelong.methods.shared.apply import apply_requests
from easyedit_lifelong.methods.shared.results import EditResult
from easyedit_lifelong.methods.shared.rollback import Rollback


class KEEditor(HypernetworkEditor):
    """Edits a model's weights with a trained KE (arXiv 2104.08164). Get it with :meth:`on`."""

    hparams_class = KEHyperParams
    network_class = KENetwork


def apply_ke_to_model(
    model: Any,
    tok: Any,
    requests: Sequence[Any],
    hparams: KEHyperParams,
    copy: bool = False,
    return_orig_weights: bool = True,
    keep_original_weight: bool = False,
    **kwargs: Any,
) -> tuple[Any, Rollback[EditResult]]:
    """Edit a model with a trained KE, in batches of ``hparams.batch_size``. Requests need no subject.

    Otherwise, arguments, result and errors are those of
    :func:`~easyedit_lifelong.methods.mend.editor.apply_mend_to_model`.
    """
    return apply_requests(
        KEEditor.on, model, tok, requests, hparams, copy=copy, keep_original_weight=keep_original_weight
    )
