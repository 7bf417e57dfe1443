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

from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.locate.attributed_rows import (
    LabelledRow,
    encode_answer,
    encode_texts,
    pad,
    predictions,
    token_losses,
)
from easyedit_lifelong.locate.attribution_methods import Method, check_attribution_method, influence_module
from easyedit_lifelong.models.anatomy import anatomy_of, mlp_of
from easyedit_lifelong.models.capture import outputs_with_gradients, recording_inputs
from easyedit_lifelong.models.encoding import IGNORED, group_by_length
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.models.model_modes import editing, frozen
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.models.precision import at_least_float32
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
    method: Method = "tracin",
    layers: Sequence[str] | None = None,
    normalise: bool = True,
    damping: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """Return how much each text supports an answer of a model, by the products of their gradients.

    The score of a text z is ∇L(z)·∇L(q), where L(z) is the mean cross-entropy of the text's tokens and L(q) that of the
    answer's tokens after the prompt. A step of gradient descent on a text with a positive score makes the answer more
    probable. With ``ekfac``, it is ∇L(z)ᵀ(H + λ)⁻¹∇L(q) (:mod:`.influence`): how much the answer depends on the text
    in a model that was trained to its end.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        texts: the texts.
        prompt: the prompt.
        answer: the answer.
        method: ``tracin``, or ``ekfac``, which needs the package kronfluence.
        layers: names of the linear layers whose weights count; None for the output projections of all MLPs.
        normalise: divide each score by the lengths of both gradients, √(∇Lᵀ(H + λ)⁻¹∇L) with ``ekfac``. Otherwise,
            short and surprising texts have larger scores, since their gradients are longer.
        damping: λ of ``ekfac``; None for a tenth of the mean eigenvalue of each layer.
        progress: called with the number of texts done, and of all texts. ``ekfac`` processes them several times.

    Returns:
        A score for each text.

    Raises:
        DataError: there are no texts, or one is too short or too long.
        ModelError: a layer isn't found.
        PluginError: the package kronfluence can't be imported.
    """
    check_attribution_method(method)
    runner = Runner(model, tokenizer)
    modules = _linear_layers(runner.model, layers)
    query, rows = encode_answer(tokenizer, prompt, answer), encode_texts(runner, texts)
    with editing(runner.model), frozen(runner.model):
        if method == "ekfac":
            scores: list[float] = influence_module().influence_scores(
                runner, modules, rows, query, normalise=normalise, damping=damping, progress=progress
            )
            return scores
        return _products(runner, modules, rows, query, normalise, progress)


def _products(
    runner: Runner,
    modules: Mapping[str, nn.Module],
    rows: Sequence[LabelledRow],
    query: LabelledRow,
    normalise: bool,
    progress: Callable[[int, int], None] | None,
) -> list[float]:
    """Return the product of the gradients of each row and the query; see :func:`attribute`."""
    scores = [0.0] * len(rows)
    (of_query,) = _factors(runner, modules, [query])
    query_norm, done = of_query.norm(), 0
    for group in group_by_length([row.ids for row in rows], _MAX_PADDING, _MAX_ROWS):
        for index, factors in zip(group, _factors(runner, modules, [rows[i] for i in group]), strict=True):
            norms = factors.norm() * query_norm if normalise else 1.0
            scores[index] = factors.product(of_query) / norms if norms else 0.0
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


def _factors(
    runner: Runner, modules: Mapping[str, nn.Module], rows: Sequence[LabelledRow]
) -> Iterator[GradientFactors]:
    """Yield the factors of each row, for the linear layers."""
    padded = pad(runner, rows)
    inputs: dict[str, Any] = {}
    outputs: dict[str, Tensor] = {}
    with recording_inputs(modules, inputs.__setitem__), outputs_with_gradients(modules, outputs):
        losses = token_losses(predictions(runner, padded), padded.targets)
    loss = (losses.sum(dim=1) / (padded.targets != IGNORED).sum(dim=1)).sum()
    gradients = dict(zip(modules, torch.autograd.grad(loss, [outputs[name] for name in modules]), strict=True))
    shape = padded.ids.shape
    for number, row in enumerate(rows):
        yield GradientFactors(
            {name: _row(inputs[name], number, shape, len(row.ids)) for name in modules},
            {name: _row(gradients[name], number, shape, len(row.ids)) for name in modules},
        )


def _row(values: Tensor, row: int, shape: torch.Size, n_tokens: int) -> Tensor:
    """Return the values at the tokens of a row; some modules have flattened rows."""
    return at_least_float32(values.detach().view(*shape, -1)[row, :n_tokens])
