"""What edits by subject need to know about a model, computed before the first edit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from easyedit_lifelong.methods.grace.config import RELATIONS, GraceHyperParams
from easyedit_lifelong.methods.grace.named_layers import find_layer
from easyedit_lifelong.methods.grace.subject.relation_prompts import relation_metric_for
from easyedit_lifelong.methods.shared.second_moments import named_moments


def prepare_statistics(
    model: Any, tokenizer: Any, hparams: GraceHyperParams, progress: Callable[[int, int], None] | None = None
) -> None:
    """Store the statistics of a model that the hyperparameters ask for, if they are not stored yet.

    These are the second moments for whitening, and the relation metric of the gate.

    Args:
        model: the unedited model.
        tokenizer: its tokenizer.
        hparams: GRACE's hyperparameters.
        progress: called with the number of tokens (or documents) read so far, and the total.

    Raises:
        CovarianceError: a stored file can't be used, or the corpus isn't available.
        ModelError: the key layer is not a linear projection, or the inputs of the answer layer can't be read.
        OSError: the relation metric can't be stored.
    """
    if hparams.whiten:
        named_moments(model, tokenizer, [find_layer(model, hparams)[0]], hparams, progress)
    if hparams.gate_eps is not None and hparams.gate_metric == RELATIONS:
        relation_metric_for(model, tokenizer, hparams, progress)
