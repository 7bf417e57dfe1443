"""Attribute an answer to texts: the products of their gradients (TracIn, Pruthi et al. 2020, arXiv 2002.08484).

The gradient of a linear layer's weight is Σₜ δₜ xₜᵀ over tokens t, where x is the layer's input and δ the gradient of
its output. So the product of the gradients of two texts is Σₜₛ (xₜ·xₛ)(δₜ·δₛ), and no gradient of a weight is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from easyedit_lifelong.errors import DataError, ModelError
from easyedit_lifelong.models.anatomy import anatomy_of, mlp_of
from easyedit_lifelong.models.capture import outputs_with_gradients, recording_inputs
from easyedit_lifelong.models.encoding import IGNORED, encode_pair, encode_text, group_by_length, pad_rows
from easyedit_lifelong.models.load import context_length, model_label
from easyedit_lifelong.models.model_modes import editing, frozen
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.models.runner import Runner

_MAX_PADDING, _MAX_ROWS = 256, 16


@dataclass(frozen=True)
class GradientFactors:
    """The factors of the gradients of linear layers' weights, for one text.

    Attributes:
        inputs: inputs of each layer at the tokens of the text, shape ``(tokens, inputs)``.
        gradients: gradients of the text's loss with respect to each layer's output, shape ``(tokens, outputs)``.
    """

    inputs: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]

    def product(self, other: GradientFactors) -> float:
        """Return the product of the gradients of two texts, summed over the layers."""
        return sum(
            float(((self.inputs[name] @ other.inputs[name].T) * (self.gradients[name] @ other.gradients[name].T)).sum())
            for name in self.inputs
        )

    def norm(self) -> float:
        """Return the length of the gradient."""
        return math.sqrt(max(self.product(self), 0.0))


def attribute(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    prompt: str,
    answer: str,
    *,
    layers: Sequence[str] | None = None,
    normalise: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """Return how much each text supports an answer of a model, by the products of their gradients.

    The score of a text z is ∇L(z)·∇L(q), where L(z) is the mean cross-entropy of the text's tokens and L(q) that of the
    answer's tokens after the prompt. A step of gradient descent on a text with a positive score makes the answer more
    probable.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        texts: the texts.
        prompt: the prompt.
        answer: the answer.
        layers: names of the linear layers whose weights count; None for the output projections of all MLPs.
        normalise: divide each score by the lengths of both gradients. Otherwise, short and surprising texts have larger
            scores, since their gradients are longer.
        progress: called with the number of texts done, and of all texts.

    Returns:
        A score for each text.

    Raises:
        DataError: there are no texts, or one is too short or too long.
        ModelError: a layer isn't found.
    """
    runner = Runner(model, tokenizer)
    modules = _linear_layers(runner.model, layers)
    pair = encode_pair(tokenizer, prompt, answer)
    rows = [encode_text(tokenizer, text) for text in texts]
    _check_rows(rows, context_length(runner.model))
    labels = [IGNORED] * len(pair.prompt) + pair.target
    scores = [0.0] * len(rows)
    with editing(runner.model), frozen(runner.model):
        (query,) = _factors(runner, modules, [pair.tokens], [labels])
        query_norm, done = query.norm(), 0
        for group in group_by_length(rows, _MAX_PADDING, _MAX_ROWS):
            group_rows = [rows[index] for index in group]
            for index, factors in zip(group, _factors(runner, modules, group_rows, group_rows), strict=True):
                norms = factors.norm() * query_norm if normalise else 1.0
                scores[index] = factors.product(query) / norms if norms else 0.0
            done += len(group)
            if progress is not None:
                progress(done, len(rows))
    return scores


def _linear_layers(model: Any, names: Sequence[str] | None) -> dict[str, nn.Module]:
    """Return the layers by name."""
    if names is not None:
        return dict(find_module(model, name) for name in names)
    anatomy = anatomy_of(model)
    found = {} if anatomy is None else {index: mlp_of(block) for index, block in enumerate(anatomy.blocks)}
    if anatomy is None or not found or None in found.values():
        raise ModelError(f"{model_label(model)}: the MLPs of its blocks aren't found; name layers with --layers")
    paths = [f"{anatomy.blocks_path}.{index}.{mlp.output}" for index, mlp in found.items() if mlp is not None]
    return dict(find_module(model, path) for path in paths)


def _check_rows(rows: Sequence[Sequence[int]], longest: int | None) -> None:
    if not rows:
        raise DataError("there are no texts to attribute the answer to")
    for number, row in enumerate(rows, 1):
        if len(row) < 2:
            raise DataError(f"text {number}: has fewer than two tokens, so it has no loss. Leave it out.")
        if longest is not None and len(row) > longest:
            raise DataError(f"text {number}: has {len(row)} tokens; the model reads {longest}. Shorten or split it.")


def _factors(
    runner: Runner, modules: Mapping[str, nn.Module], rows: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]
) -> Iterator[GradientFactors]:
    """Yield the factors of each row.

    Args:
        runner: runs the model.
        modules: the linear layers.
        rows: token ids.
        labels: the row's tokens, or :data:`IGNORED` for those that don't count in its loss.
    """
    ids, mask = pad_rows(rows, runner.pad, "right", runner.device)
    targets = torch.full_like(ids, IGNORED)
    for row, row_labels in enumerate(labels):
        targets[row, : len(row_labels)] = torch.tensor(row_labels)
    inputs: dict[str, Any] = {}
    outputs: dict[str, Tensor] = {}
    with recording_inputs(modules, inputs.__setitem__), outputs_with_gradients(modules, outputs):
        logits = runner.call(ids, mask, mask.sum(dim=1))
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    each = F.cross_entropy(logits[:, :-1].transpose(1, 2), targets[:, 1:], ignore_index=IGNORED, reduction="none")
    counts = (targets[:, 1:] != IGNORED).sum(dim=1)
    loss = (each.sum(dim=1) / counts).sum()
    gradients = dict(zip(modules, torch.autograd.grad(loss, [outputs[name] for name in modules]), strict=True))
    for row, tokens in enumerate(rows):
        yield GradientFactors(
            {name: _row(inputs[name], row, ids.shape, len(tokens)) for name in modules},
            {name: _row(gradients[name], row, ids.shape, len(tokens)) for name in modules},
        )


def _row(values: Tensor, row: int, shape: torch.Size, n_tokens: int) -> Tensor:
    """Return the values at the tokens of a row; some modules have flattened rows."""
    part = values.detach().view(*shape, -1)[row, :n_tokens]
    return part.to(torch.promote_types(part.dtype, torch.float32))
