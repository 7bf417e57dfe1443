"""Optimisers of several vectors at a time: Adam, as in the papers, and limited-memory BFGS, which needs fewer passes.

GRACE trains its values with them, and methods that locate and then edit train their target vectors.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from easyedit_lifelong.methods.shared.quasi_newton import QuasiNewtonSearch, clamp_norms

ADAM, LBFGS = "adam", "lbfgs"
"""The names of the optimisers in hyperparameters."""

_LONGEST_STEP = 5.0
"""The longest step of limited-memory BFGS, in units of Adam's first step (learning rate · √size)."""


class VectorOptimiser(abc.ABC):
    """Optimises the vectors of several edits independently of each other.

    Attributes:
        returns_to_best: whether an edit's result is its best candidate instead of its latest one.
    """

    returns_to_best: ClassVar[bool]

    @property
    @abc.abstractmethod
    def candidates(self) -> Tensor:
        """The vectors whose objectives are needed next, shape ``(edits, candidates, size)``."""

    @abc.abstractmethod
    def step(self, objectives: Sequence[Sequence[float]], gradients: Tensor) -> None:
        """Choose the next candidates.

        Args:
            objectives: the objectives of the candidates, by edit.
            gradients: the gradient of each edit's best candidate, shape ``(edits, size)``.
        """

    @abc.abstractmethod
    def keep(self, edits: Sequence[int]) -> None:
        """Continue with a selection of the edits."""


class Adam(VectorOptimiser):
    """Adam, with one candidate for each edit.

    Args:
        starts: the initial vectors, shape ``(edits, size)``.
        learning_rate: the learning rate.
        largest_norms: the largest norm of each edit's vector, shape ``(edits,)``; None: no limit. A vector is scaled
            down after each step.
    """

    returns_to_best = False

    def __init__(self, starts: Tensor, learning_rate: float, largest_norms: Tensor | None = None) -> None:
        self._vectors, self._largest_norms = starts.detach().clone(), largest_norms
        self._optimiser = torch.optim.Adam([self._vectors], lr=learning_rate)

    @property
    def candidates(self) -> Tensor:
        """See :class:`VectorOptimiser`."""
        return self._vectors.unsqueeze(1)

    def step(self, objectives: Sequence[Sequence[float]], gradients: Tensor) -> None:
        """Update the vectors; see :class:`VectorOptimiser`."""
        self._vectors.grad = gradients
        self._optimiser.step()
        if self._largest_norms is not None:
            self._vectors.copy_(clamp_norms(self._vectors, self._largest_norms))

    def keep(self, edits: Sequence[int]) -> None:
        """Continue with a selection of the edits, and with Adam's state of them."""
        kept = torch.tensor(edits, device=self._vectors.device)
        selection = self._vectors[kept].clone()
        optimiser = torch.optim.Adam([selection], lr=self._optimiser.param_groups[0]["lr"])
        state = self._optimiser.state.get(self._vectors, {})
        optimiser.state[selection] = {name: part[kept] if part.dim() else part for name, part in state.items()}
        self._vectors, self._optimiser = selection, optimiser
        if self._largest_norms is not None:
            self._largest_norms = self._largest_norms[kept]


class QuasiNewton(VectorOptimiser):
    """Limited-memory BFGS, a search for each edit; see :class:`.QuasiNewtonSearch`.

    Args:
        starts: the initial vectors, shape ``(edits, size)``.
        learning_rate: the longest step is five times that of Adam with this learning rate.
        largest_norms: the largest norm of each edit's candidates, shape ``(edits,)``; None: no limit.
        multiples: multiples of each step that are tried in the same pass.
    """

    returns_to_best = True

    def __init__(
        self,
        starts: Tensor,
        learning_rate: float,
        largest_norms: Tensor | None = None,
        multiples: Sequence[float] = (1.0,),
    ) -> None:
        longest = _LONGEST_STEP * learning_rate * starts.shape[1] ** 0.5
        limits = [None] * len(starts) if largest_norms is None else list(largest_norms)
        self._searches = [
            QuasiNewtonSearch(start, longest, multiples, limit)
            for start, limit in zip(starts.detach(), limits, strict=True)
        ]

    @property
    def candidates(self) -> Tensor:
        """See :class:`VectorOptimiser`."""
        return torch.stack([search.candidates for search in self._searches])

    def step(self, objectives: Sequence[Sequence[float]], gradients: Tensor) -> None:
        """Update the searches; see :class:`VectorOptimiser`."""
        for search, values, gradient in zip(self._searches, objectives, gradients, strict=True):
            search.update(values, gradient)

    def keep(self, edits: Sequence[int]) -> None:
        """Continue with a selection of the edits."""
        self._searches = [self._searches[edit] for edit in edits]


def make_optimiser(
    name: str,
    starts: Tensor,
    learning_rate: float,
    largest_norms: Tensor | None = None,
    multiples: Sequence[float] = (1.0,),
) -> VectorOptimiser:
    """Return the optimiser with a name.

    Args:
        name: ``adam`` or ``lbfgs``.
        starts: the initial vectors, shape ``(edits, size)``.
        learning_rate: the learning rate of Adam; limited-memory BFGS takes the length of its steps from it.
        largest_norms: the largest norm of each edit's vector, shape ``(edits,)``; None: no limit.
        multiples: see :class:`QuasiNewton`; Adam has one candidate for each edit.
    """
    if name == ADAM:
        return Adam(starts, learning_rate, largest_norms)
    return QuasiNewton(starts, learning_rate, largest_norms, multiples)
