"""Running mean and standard deviation of feature vectors, as UltraEdit and MEND normalise with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Normaliser:
    """Running mean and variance of feature vectors, by Welford's method.

    Attributes:
        count: the number of vectors so far.
        mean: their mean, shape ``(features,)``, in float64.
        squares: the sum of their squared deviations from the mean, shape ``(features,)``, in float64.
    """

    count: int
    mean: Tensor
    squares: Tensor

    @classmethod
    def empty(cls, features: int) -> Normaliser:
        """Return the normaliser of no vectors."""
        zeros = torch.zeros(features, dtype=torch.float64)
        return cls(0, zeros, zeros)

    def updated(self, vectors: Tensor) -> Normaliser:
        """Return the normaliser after more vectors, shape ``(n, features)``.

        The result depends on all vectors so far, and not on how they were grouped.
        """
        added = len(vectors)
        count = self.count + added
        change = vectors.mean(dim=0) - self.mean
        squares = squared_deviations(vectors) + self.count * added / count * change.square()
        return Normaliser(count, self.mean + added / count * change, self.squares + squares)

    @property
    def std(self) -> Tensor:
        """The standard deviation of each feature, shape ``(features,)``; 0 for a single vector."""
        return (self.squares / max(self.count - 1, 1)).sqrt()

    def normalise(self, vectors: Tensor, epsilon: float) -> Tensor:
        """Return the vectors with their mean subtracted, divided by their standard deviation, ``(n, features)``.

        Args:
            vectors: shape ``(n, features)``.
            epsilon: added to the standard deviation, which is 0 for a constant feature.
        """
        return (vectors - self.mean) / (self.std + epsilon)


def squared_deviations(vectors: Tensor) -> Tensor:
    """Return the sum of squared deviations from the mean: ``(n, features)`` to ``(features,)``."""
    return (vectors - vectors.mean(dim=0)).square().sum(dim=0)
