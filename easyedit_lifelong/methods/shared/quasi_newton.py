"""Minimise a smooth function of one vector by limited-memory BFGS (Nocedal and Wright 2006, algorithm 7.4).

The vector's norm may be limited. Then every point is projected onto the ball before its value is computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_MEMORY = 8
"""Number of earlier steps from which the curvature is estimated."""
_SHRINK = 0.25
"""Factor of the step after one that did not lower the function."""
_LEAST_CURVATURE = 1e-10
"""Smallest cosine between a step and the change of the gradient at which the step tells the curvature."""


class QuasiNewtonSearch:
    """A search for the minimum of a function, whose values and gradients the caller computes.

    The first candidate is the start. Each later step goes in one direction, with a candidate for every multiple of its
    length. The candidate with the lowest value is the next point, unless none is lower than the present point: then
    shorter steps from there are tried.

    With a largest norm, candidates are projected onto the ball, and the curvature is estimated from the projected
    points. The projection of a step may go uphill, although the step goes downhill. Then a step of the same length
    along the gradient is taken, whose projection never goes uphill.

    Args:
        start: the first point, shape ``(size,)``.
        longest: the largest length of a step, before its multiples; the first step has half of it.
        multiples: the multiples, in rising order.
        largest_norm: the largest norm of a candidate, a tensor of shape ``()``; None: no limit.

    Attributes:
        candidates: the points whose values are needed next, shape ``(candidates, size)``.
        point: the point with the lowest value so far.
        value: the function's value there; infinite before the first update.
    """

    def __init__(
        self, start: Tensor, longest: float, multiples: Sequence[float], largest_norm: Tensor | None = None
    ) -> None:
        self.candidates = start.unsqueeze(0)
        self.point, self.value = start, math.inf
        self._longest, self._multiples = longest, start.new_tensor(multiples).unsqueeze(1)
        self._largest_norm = largest_norm
        self._gradient = torch.zeros_like(start)
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._shrunk = 1.0

    def update(self, values: Sequence[float], gradient: Tensor) -> None:
        """Move to the best candidate if it is better than the present point, and choose the next candidates.

        Args:
            values: the values at the candidates; those that are not finite are never the best.
            gradient: the gradient at the first candidate with the lowest value, shape ``(size,)``.
        """
        best = lowest(values)
        if values[best] < self.value:
            if self.value < math.inf:
                self._remember(self.candidates[best] - self.point, gradient - self._gradient)
            self.point, self.value, self._gradient = self.candidates[best], values[best], gradient
            self._shrunk = 1.0
        else:
            self._shrunk *= _SHRINK
        self.candidates = self._next_candidates()

    def _next_candidates(self) -> Tensor:
        """Return the points at the multiples of the next step, projected onto the ball."""
        step = self._shrunk * self._step()
        candidates = self.point - self._multiples * step
        if self._largest_norm is None:
            return candidates
        candidates = clamp_norms(candidates, self._largest_norm)
        if (candidates[0] - self.point) @ self._gradient < 0:
            return candidates
        step = self._gradient * (step.norm() / self._gradient.norm().clamp_min(torch.finfo(step.dtype).tiny))
        return clamp_norms(self.point - self._multiples * step, self._largest_norm)

    def _step(self) -> Tensor:
        """Return the step H·g from the present point, by the two-loop recursion; along the gradient at first."""
        step, products = self._gradient, list[Tensor]()
        if not self._pairs:
            return step * (self._longest / 2 / step.norm().clamp_min(torch.finfo(step.dtype).tiny))
        for moved, change in reversed(self._pairs):
            products.append((moved @ step) / (moved @ change))
            step = step - products[-1] * change
        moved, change = self._pairs[-1]
        step = step * ((moved @ change) / (change @ change))
        for (moved, change), product in zip(self._pairs, reversed(products), strict=True):
            step = step + (product - (change @ step) / (moved @ change)) * moved
        return step * (self._longest / step.norm()).clamp_max(1.0)

    def _remember(self, moved: Tensor, change: Tensor) -> None:
        """Keep a step and the change of the gradient, if the function curves upwards along it."""
        if moved @ change > _LEAST_CURVATURE * moved.norm() * change.norm():
            self._pairs = [*self._pairs, (moved, change)][-_MEMORY:]


def lowest(values: Sequence[float]) -> int:
    """Return the number of the first lowest value; values that are not finite count as infinite."""
    return min(range(len(values)), key=lambda number: values[number] if math.isfinite(values[number]) else math.inf)


def clamp_norms(vectors: Tensor, limits: Tensor) -> Tensor:
    """Return vectors, those whose norm is above its limit scaled down to it.

    Args:
        vectors: shape ``(vectors, size)``.
        limits: the largest norm of each vector, shape ``(vectors,)``, or of all vectors, shape ``()``.

    Returns:
        The vectors; NaN where a vector is too large to have a norm.
    """
    norms = vectors.norm(dim=1)
    scales = torch.where(norms > limits, limits / norms, 1.0)
    return vectors * torch.where(norms.isfinite(), scales, torch.nan).unsqueeze(1)
