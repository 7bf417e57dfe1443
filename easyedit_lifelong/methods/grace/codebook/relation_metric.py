"""The relation metric: how near two prompts are by the relation that they ask for.

A late activation at a prompt's last token holds which relation the prompt asks for ("the capital of", "was born in"),
but also the subject and the wording. By plain cosine distance, these hide the relation. A linear discriminant analysis
(Fisher 1936) finds the directions in which relations differ most, compared with the prompts of one relation. Prompts
are compared in these directions only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

DIRECTIONS = 30
"""Number of directions that are kept."""

SHRINKAGE = 0.5
"""Share of the average variance in the covariance within relations, which makes it invertible."""


class RelationMetric(NamedTuple):
    """A projection of activations at the answer layer, after which cosine distance compares relations.

    Attributes:
        mean: the mean activation μ, shape ``(width,)``, float32.
        projection: the discriminant directions W, shape ``(width, directions)``, float32.
    """

    mean: Tensor
    projection: Tensor

    def project(self, activations: Tensor) -> Tensor:
        """Return Wᵀ(x - μ) of activations x.

        Args:
            activations: shape ``(n, width)``, any dtype and device.

        Returns:
            Shape ``(n, directions)``, float32.
        """
        # A matrix product may round a row differently in another batch. In float64, the difference is too small to
        # remain after rounding to float32.
        exact = torch.float32 if activations.device.type == "mps" else torch.float64  # MPS has no float64
        mean, projection = (tensor.to(activations.device, exact) for tensor in self)
        return ((activations.to(exact) - mean) @ projection).float()

    def fits(self, width: int) -> bool:
        """Whether this metric, which may come from a damaged file, has the shape, dtype and values of one.

        Args:
            width: the width of the activations.
        """
        shapes_fit = self.mean.shape == (width,) and self.projection.dim() == 2 and len(self.projection) == width
        return shapes_fit and all(tensor.dtype == torch.float32 and bool(tensor.isfinite().all()) for tensor in self)


def fit_relation_metric(
    activations: Tensor, relations: Sequence[int], directions: int = DIRECTIONS, shrinkage: float = SHRINKAGE
) -> RelationMetric:
    """Return the relation metric of prompts whose relations are known.

    With the covariance S_w of activations within relations, shrunk towards a multiple of the identity, and the
    covariance S_b of the relations' means, W holds the eigenvectors of S_w^(-1/2) S_b S_w^(-1/2) with the largest
    eigenvalues, multiplied by S_w^(-1/2).

    Args:
        activations: one activation for each prompt, shape ``(prompts, width)``.
        relations: the number of each prompt's relation.
        directions: number of directions to keep; at most one less than there are relations, and the width.
        shrinkage: share s of S_w ← (1 - s) S_w + s (tr S_w / width) I; above 0 and at most 1.

    Raises:
        ValueError: there are fewer than two relations, or all activations of each relation are equal.
    """
    vectors = activations.double().cpu()
    number_of_relation, relation_of_prompt = torch.tensor(list(relations)).unique(return_inverse=True)
    n_relations, width = len(number_of_relation), vectors.shape[1]
    if n_relations < 2:
        raise ValueError("a relation metric needs prompts of at least two relations")
    counts = relation_of_prompt.bincount().unsqueeze(1)
    means = vectors.new_zeros(n_relations, width).index_add_(0, relation_of_prompt, vectors) / counts
    within = vectors - means[relation_of_prompt]
    covariance = within.t() @ within / len(vectors)
    average_variance = covariance.diagonal().mean()
    if average_variance <= 0:
        raise ValueError("all prompts of each relation have the same activation")
    covariance = (1 - shrinkage) * covariance + shrinkage * average_variance * torch.eye(width, dtype=torch.float64)
    variances, axes = torch.linalg.eigh(covariance)
    whitening = (axes * variances.rsqrt()) @ axes.t()
    between = (means - means.mean(dim=0)) @ whitening
    _, discriminants = torch.linalg.eigh(between.t() @ between)
    kept = min(directions, n_relations - 1, width)
    projection = whitening @ discriminants[:, width - kept :]
    return RelationMetric(vectors.mean(dim=0).float(), projection.float().contiguous())
