"""The neighbourhood of keys at a layer of a model, which methods share and which is computed once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from easyedit_lifelong.methods.shared.editors import internal_pass
from easyedit_lifelong.methods.shared.model_values import values_of
from easyedit_lifelong.methods.shared.subject_keys.auto_radius import Neighbourhood
from easyedit_lifelong.methods.shared.subject_keys.whitening import whitened
from easyedit_lifelong.models.capture import inputs_at
from easyedit_lifelong.models.model_modes import editing
from easyedit_lifelong.models.runner import Runner


def neighbourhood_at(
    model: Any,
    tokenizer: Any,
    path: str,
    layer: nn.Module,
    whitening: Tensor | None,
    *,
    dist_fn: str,
    key_templates: Sequence[str],
    false_fire_rate: float,
) -> Neighbourhood:
    """Return the neighbourhood of keys at a layer. It stays in memory as long as the model has the same weights.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        path: the path of the layer.
        layer: the layer; its inputs are the keys.
        whitening: the matrix that the keys are whitened with, shape ``(width, rank)``; None for no whitening.
        dist_fn: ``euc`` or ``cos``.
        key_templates: the templates that key vectors are taken from, besides the prompt.
        false_fire_rate: share of the sentences that may match the key of another sentence's subject.

    Raises:
        EditError: the model can't compute gradients.
        ModelError: the inputs of the layer can't be read.
    """
    digest = None if whitening is None else hashlib.sha256(whitening.cpu().numpy().tobytes()).digest()
    settings = (tokenizer, path, digest, dist_fn, tuple(key_templates), false_fire_rate)

    def compute() -> Neighbourhood:
        runner = Runner(model, tokenizer)

        def queries_of(rows: Sequence[list[int]]) -> list[Tensor]:
            inputs_of_rows = inputs_at(runner, layer, rows)
            basis = None if whitening is None else whitening.to(inputs_of_rows[0].device)
            return [whitened(inputs, basis) for inputs in inputs_of_rows]

        with editing(model), internal_pass(model):
            return Neighbourhood(queries_of, tokenizer, dist_fn, key_templates, false_fire_rate)

    return values_of(model).get("neighbourhood", settings, compute)
