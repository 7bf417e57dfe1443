"""The key space of a codebook: the hyperparameters, with what the first edit finds out about the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.relation_metric import RelationMetric
from easyedit_lifelong.methods.grace.config import RELATIONS, GraceHyperParams

_WHITENING, _METRIC = "whitening", ("relation_mean", "relation_projection")

KEY_SPACE_TENSORS = (_WHITENING, *_METRIC)
"""Names of the tensors that describe a key space. In a state folder, the first step alone holds them."""


@dataclass(frozen=True)
class KeySpace:
    """The part of a key space that hyperparameters do not define. The first edit defines it.

    Attributes:
        gate_size: width of a gate; 0 without gates.
        whitening: the matrix that whitens queries, see :func:`.whitening_of`; None without whitening.
        relation_metric: the metric of the relation gate; None for cosine distance of activations.
    """

    gate_size: int = 0
    whitening: Tensor | None = None
    relation_metric: RelationMetric | None = None

    @classmethod
    def of_tensors(cls, gate_size: int, tensors: Mapping[str, Tensor]) -> KeySpace:
        """Return the key space whose tensors :meth:`tensors` returned; other tensors are ignored.

        Raises:
            KeyError: one of the two tensors of a relation metric is missing.
            ValueError: ``gate_size`` is no width.
        """
        has_metric = any(name in tensors for name in _METRIC)
        metric = RelationMetric(*(tensors[name] for name in _METRIC)) if has_metric else None
        return cls(gate_size, tensors.get(_WHITENING), metric)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of this space by their names in a file."""
        whitening = {} if self.whitening is None else {_WHITENING: self.whitening}
        return whitening | dict(zip(_METRIC, self.relation_metric or (), strict=False))

    def __post_init__(self) -> None:
        """Check ``gate_size``, which may come from a damaged file.

        Raises:
            ValueError: it is no width.
        """
        if type(self.gate_size) is not int or self.gate_size < 0:
            raise ValueError(f"gate_size {self.gate_size!r} is no width")

    def check(self, hparams: GraceHyperParams, key_width: int, value_width: int) -> None:
        """Check that stored keys and values fit this space.

        Args:
            hparams: GRACE's hyperparameters.
            key_width: width of a key, all key vectors included.
            value_width: width of a value, with its gate and radius.

        Raises:
            ValueError: they do not fit; the message says why.
        """
        if (self.gate_size > 0) != (hparams.gate_eps is not None):
            raise ValueError(f"gates of width {self.gate_size} with gate_eps: {hparams.gate_eps}")
        if key_width % hparams.vectors_per_key:
            raise ValueError(f"keys of width {key_width} can't be split into {hparams.vectors_per_key} key vectors")
        if value_width <= self.gate_size + (hparams.eps == "auto"):
            raise ValueError(f"values of width {value_width} have no room for gates of width {self.gate_size}")
        if (self.whitening is not None) != hparams.whiten:
            presence = "is missing" if hparams.whiten else "is there"
            raise ValueError(f"the whitening {presence} with whiten: {str(hparams.whiten).lower()}")
        vector_width = key_width // hparams.vectors_per_key
        if self.whitening is not None and not _is_whitening(self.whitening, vector_width):
            raise ValueError(f"the whitening isn't one of keys of width {vector_width}")
        needs_metric = self.gate_size > 0 and hparams.gate_metric == RELATIONS
        if (self.relation_metric is not None) != needs_metric:
            presence = "is missing" if needs_metric else "is there"
            raise ValueError(f"the relation metric {presence} with gate_metric: {hparams.gate_metric}")
        if self.relation_metric is not None and not self.relation_metric.fits(self.gate_size):
            raise ValueError(f"the relation metric isn't one of gates of width {self.gate_size}")

    def same_as(self, other: KeySpace) -> bool:
        """Whether distances in both spaces are bitwise the same."""
        if self.gate_size != other.gate_size or not _equal(self.whitening, other.whitening):
            return False
        mine, others = self.relation_metric or (None, None), other.relation_metric or (None, None)
        return all(map(_equal, mine, others))


def _equal(tensor: Tensor | None, other: Tensor | None) -> bool:
    """Whether two tensors are bitwise the same, or both missing."""
    return tensor is other or (tensor is not None and other is not None and torch.equal(tensor, other))


def _is_whitening(matrix: Tensor, width: int) -> bool:
    """Whether a matrix has the shape, dtype and values of a whitening matrix for vectors of this width."""
    has_shape = matrix.dim() == 2 and len(matrix) == width
    return has_shape and matrix.dtype == torch.float32 and bool(matrix.isfinite().all())


def new_codebook(
    hparams: GraceHyperParams,
    key_width: int,
    value_width: int,
    key_space: KeySpace,
    rounding: float,
    device: torch.device | str | None = None,
) -> Codebook:
    """Return an empty codebook.

    Args:
        hparams: GRACE's hyperparameters.
        key_width: width of a key, all key vectors included.
        value_width: width of a value, with its gate and radius.
        key_space: the part of the key space that the hyperparameters do not define.
        rounding: see :class:`.KeyStore`.
        device: device of the codebook.
    """
    per_edit_eps = hparams.eps == "auto"
    return Codebook(
        key_width // hparams.vectors_per_key,
        value_width - key_space.gate_size - per_edit_eps,
        eps=0.0 if per_edit_eps else float(hparams.eps),
        dist_fn=hparams.dist_fn,
        eps_expand=hparams.eps_expand,
        rounding=rounding,
        device=device,
        vectors_per_key=hparams.vectors_per_key,
        gate_size=key_space.gate_size,
        gate_eps=hparams.gate_eps,
        relation_metric=key_space.relation_metric,
        per_edit_eps=per_edit_eps,
    )
