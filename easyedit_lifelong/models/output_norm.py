"""Models that normalise the output of their MLP before it is added to the residual stream, such as Gemma 2 and 3."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.models.capture import ending_after, recording_inputs, recording_output
from easyedit_lifelong.models.runner import Runner

_DAMPING = 0.1
"""ε of :meth:`OutputNorm.change_before`, in units of the median gain."""


_EPS_NAMES = ("eps", "variance_epsilon")
"""The attributes in which norms have the number that they add to the mean square."""

_TOKENS = 8
"""Number of tokens of the pass in which a norm is recognised."""


@dataclass(frozen=True)
class OutputNorm:
    """The norm between a projection W and the residual stream: y = g ⊙ m / s, s = sqrt(mean(m²) + eps), m = W k.

    An update of W that should change y must account for it: y depends on the direction of m alone, and a dimension
    with a small gain is hardly reached.

    Attributes:
        gain: g, shape ``(width,)``, in float64.
        eps: the number that the norm adds to the mean square.
    """

    gain: Tensor
    eps: float = 0.0

    def __call__(self, outputs: Tensor) -> Tensor:
        """Return y for outputs m of the projection, shape ``(n, width)``, in float64."""
        return self.gain.to(outputs.device) * outputs.double() / self._scale(outputs)

    def change_before(self, outputs: Tensor, change: Tensor) -> Tensor:
        """Return a change Δ of the projection's output such that norm(m + Δ) is near y + r.

        Δ = s g ⊙ r / (g² + ε²). Where the gains are large, m + Δ has the direction of s (y + r) / g, so that
        norm(m + Δ) is y + r up to its length, which the norm fixes. Where they are small, Δ does not follow r.

        Args:
            outputs: m, shape ``(n, width)``.
            change: r, shape ``(n, width)``.

        Returns:
            Δ, shape ``(n, width)``, in float64.
        """
        g, r = self.gain.to(outputs.device), change.to(outputs.device).double()
        damping = (_DAMPING * g.abs().median()).square()
        return self._scale(outputs) * g * r / (g.square() + damping)

    def _scale(self, outputs: Tensor) -> Tensor:
        """Return s for outputs m of the projection, shape ``(n, 1)``."""
        return (outputs.double().square().mean(dim=1, keepdim=True) + self.eps).sqrt()


def find_output_norm(runner: Runner, block: nn.Module, projection: nn.Module) -> OutputNorm | None:
    """Return the norm that a block applies to the output of its MLP; None if it has none.

    It is recognised in a short pass: it is the submodule of the block whose input is the projection's output.

    Args:
        runner: runs the model.
        block: the block.
        projection: the output projection of its MLP.

    Raises:
        ModelError: the block changes the output of its MLP in another way than by an RMS norm.
    """
    parts = dict(block.named_children())
    candidates = {name: part for name, part in parts.items() if all(m is not projection for m in part.modules())}
    inputs: dict[str, Any] = {}
    outputs: list[Tensor] = []
    ids = torch.arange(_TOKENS, device=runner.device).unsqueeze(0)
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(recording_inputs(candidates, inputs.__setitem__))
        stack.enter_context(recording_output(projection, outputs.append))
        stack.enter_context(ending_after(block))
        runner.call(ids, torch.ones_like(ids), [_TOKENS])
    after = [candidates[name] for name, value in inputs.items() if _equal(value, outputs[-1])]
    if not after:
        return None
    (norm,) = after
    m = outputs[-1].reshape(_TOKENS, -1)
    with torch.no_grad():
        y = norm(m)
        if torch.equal(y, m):
            return None
        eps = next((float(getattr(norm, name)) for name in _EPS_NAMES if hasattr(norm, name)), 0.0)
        found = OutputNorm(norm(torch.ones_like(m[:1]))[0].double() * (1 + eps) ** 0.5, eps)
    if not torch.allclose(found(m).to(y.dtype), y, rtol=1e-2, atol=1e-3 * float(y.abs().max())):
        raise ModelError(
            f"{type(block).__name__} passes the output of its MLP through a {type(norm).__name__}, which is no RMS "
            "norm. Methods that edit the MLP's output projection can't reach the block's output through it."
        )
    return found


def _equal(value: Any, output: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == output.shape and torch.equal(value, output)
