"""Models that normalise or scale the output of their MLP before they add it to the residual stream.

Gemma 2 and 3 and OLMo 2 normalise it; Granite multiplies it by a number.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.models.capture import ending_after, recording_inputs, recording_output
from easyedit_lifelong.models.partial_pass import hidden_of
from easyedit_lifelong.models.runner import Runner

_DAMPING = 0.1
"""ε of :meth:`OutputNorm.change_before`, in units of the median gain."""


_EPS_NAMES = ("eps", "variance_epsilon")
"""The attributes in which norms have the number that they add to the mean square."""

_TOLERANCE = 0.01
"""The share of a change that may be rounding."""

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


@dataclass(frozen=True)
class OutputScale:
    """The number by which a block multiplies the output of its MLP before adding it."""

    factor: float

    def change_before(self, outputs: Tensor, change: Tensor) -> Tensor:
        """Return the change of the projection's output that changes the block's output by ``change``."""
        return change / self.factor


@dataclass(frozen=True)
class _Observed:
    """A pass over some tokens up to a block.

    Attributes:
        inputs: the first argument of each of the block's parts that do not contain the projection, by name.
        output: the output of the projection.
        hidden: the output of the block.
    """

    inputs: Mapping[str, Any]
    output: Tensor
    hidden: Tensor


def find_output_map(runner: Runner, block: nn.Module, projection: nn.Module) -> OutputNorm | OutputScale | None:
    """Return what a block does with the output of its MLP before adding it; None if it adds it as it is.

    Args:
        runner: runs the model.
        block: the block.
        projection: the output projection of its MLP.

    Raises:
        ModelError: the block normalises the output of its MLP in another way than by an RMS norm.
    """
    observed = _observe(runner, block, projection)
    return _norm_in(block, observed) or _scale_in(runner, block, projection, observed)


def find_output_norm(runner: Runner, block: nn.Module, projection: nn.Module) -> OutputNorm | None:
    """Return the norm that a block applies to the output of its MLP; None if it has none.

    The arguments and errors are those of :func:`find_output_map`.
    """
    return _norm_in(block, _observe(runner, block, projection))


def _norm_in(block: nn.Module, observed: _Observed) -> OutputNorm | None:
    """Return the norm after the MLP; None without one.

    It is the last part of the block whose input is the projection's output: dropout, which is off, may come between.

    Raises:
        ModelError: this part is no RMS norm, and changes its input.
    """
    after = [name for name, value in observed.inputs.items() if _equal(value, observed.output)]
    if not after:
        return None
    norm = block.get_submodule(after[-1])
    m = observed.output.reshape(_TOKENS, -1)
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


def _scale_in(runner: Runner, block: nn.Module, projection: nn.Module, observed: _Observed) -> OutputScale | None:
    """Return by which number the block multiplies the projection's output; None if by 1, or by no one number.

    The pass that was observed is compared with one in which the projection's output is changed.
    """
    noise = torch.randn(observed.output.shape, generator=torch.Generator().manual_seed(0)).to(observed.output)
    made = noise * observed.hidden.float().square().mean().sqrt().to(noise)
    changing = projection.register_forward_hook(lambda _, __, output: output + made)
    seen = (_observe(runner, block, projection, changing).hidden.double() - observed.hidden.double()).flatten()
    made = made.double().flatten()
    factor = float(made @ seen / made.square().sum())
    if abs(factor - 1) <= _TOLERANCE:
        return None  # what is measured beside 1 is rounding
    return OutputScale(factor) if float((seen - factor * made).norm()) <= _TOLERANCE * float(seen.norm()) else None


@torch.no_grad()
def _observe(runner: Runner, block: nn.Module, projection: nn.Module, *hooks: AbstractContextManager[Any]) -> _Observed:
    """Run some tokens up to a block, in the contexts of hooks."""
    parts = dict(block.named_children())
    candidates = {name: part for name, part in parts.items() if all(m is not projection for m in part.modules())}
    inputs: dict[str, Any] = {}
    outputs: dict[str, Any] = {}
    ids = torch.arange(_TOKENS, device=runner.device).unsqueeze(0)
    with contextlib.ExitStack() as stack:
        for hook in hooks:
            stack.enter_context(hook)
        stack.enter_context(recording_inputs(candidates, inputs.__setitem__))
        for name, module in (("projection", projection), ("block", block)):
            stack.enter_context(recording_output(module, functools.partial(outputs.__setitem__, name)))
        stack.enter_context(ending_after(block))
        runner.call(ids, torch.ones_like(ids), [_TOKENS])
    return _Observed(inputs, outputs["projection"], hidden_of(outputs["block"]))


def _equal(value: Any, output: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == output.shape and torch.equal(value, output)
