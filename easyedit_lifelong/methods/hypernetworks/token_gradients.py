"""The inputs and output gradients of edited projections at every token of the edits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.errors import EditError, ModelError
from easyedit_lifelong.methods.training.example_passes import ExampleLosses, ExamplePasses, Weights
from easyedit_lifelong.methods.training.examples import Example
from easyedit_lifelong.models.answer_passes import OutputGradients
from easyedit_lifelong.models.capture import outputs_with_gradients, recording_inputs
from easyedit_lifelong.models.row_axis import with_row_axis


@dataclass(frozen=True)
class TokenGradients(OutputGradients):
    """Inputs and output gradients of one projection at the tokens of some edits.

    Attributes:
        edit_of: the number of the edit of each token, counted from 0, shape ``(tokens,)``.
    """

    edit_of: Tensor


def token_gradients(
    passes: ExamplePasses,
    modules: Mapping[str, nn.Module],
    examples: Sequence[Example],
    weights: Weights | None = None,
) -> tuple[dict[str, TokenGradients], ExampleLosses]:
    """Return the inputs u and the output gradients δ of projections, and the losses of the examples.

    The loss of an example is the mean cross-entropy of its target tokens. δ is the gradient of the sum over the
    examples, so that it does not depend on the other examples. Tokens with u = 0 or δ = 0 are left out: padding, and
    tokens that no prediction of the target depends on.

    Args:
        passes: runs the model, whose parameters need no gradients.
        modules: the projections by path.
        examples: the edits.
        weights: the weights of the projections; None: those of the model.

    Raises:
        ModelError: a projection does not get one vector for every token, or the targets do not depend on it.
        EditError: an input or a gradient is not finite.
    """
    inputs: dict[str, Any] = {}
    outputs: dict[str, Tensor] = {}
    with torch.enable_grad(), recording_inputs(modules, inputs.__setitem__), outputs_with_gradients(modules, outputs):
        losses = passes.losses(examples, weights)
        total = losses.losses.sum()
    losses.check_finite(examples, "before the edit")
    for path in modules:
        values = with_row_axis(inputs.get(path), len(examples))
        if not isinstance(values, Tensor) or values.dim() != 3 or len(values) != len(examples):
            raise ModelError(f"{path} gets no vector for every token; name another layer")
        inputs[path] = values
    gradients = torch.autograd.grad(total, [outputs[path] for path in modules], allow_unused=True)
    result: dict[str, TokenGradients] = {}
    for path, gradient in zip(modules, gradients, strict=True):
        if gradient is None:
            raise ModelError(f"{path}: the targets do not depend on its output; name another layer")
        result[path] = _at_tokens_in_use(path, inputs[path].detach(), with_row_axis(gradient, len(examples)))
    return result, ExampleLosses(losses.losses.detach(), losses.correct)


def _at_tokens_in_use(path: str, inputs: Tensor, gradients: Tensor) -> TokenGradients:
    """Return inputs and gradients of shape ``(rows, tokens, width)`` at the tokens where neither of them is 0."""
    dtype = torch.promote_types(inputs.dtype, torch.float32)
    rows, tokens = inputs.shape[:2]
    inputs, gradients = inputs.flatten(0, 1).to(dtype), gradients.flatten(0, 1).to(dtype)
    if not torch.isfinite(inputs).all() or not torch.isfinite(gradients).all():
        raise EditError(f"the gradients at {path} hold NaN or infinite values")
    in_use = (inputs != 0).any(dim=1) & (gradients != 0).any(dim=1)
    edit_of = torch.arange(rows, device=inputs.device).repeat_interleave(tokens)
    return TokenGradients(inputs[in_use], gradients[in_use], edit_of[in_use])
