"""The optimisers of GRACE's values: Adam, as in the paper, and limited-memory BFGS, which needs fewer passes."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from easyedit_lifelong.methods.grace.config import ADAM, GraceHyperParams
from easyedit_lifelong.methods.grace.training.quasi_newton import QuasiNewtonSearch

_LONGEST_STEP = 5.0
"""The longest step of limited-memory BFGS, in units of Adam's first step (edit_lr · √size)."""


class ValueOptimiser(abc.ABC):
    """Optimises the values of several edits independently of each other.

    Attributes:
        returns_to_best: whether an edit's result is its best candidate instead of its latest one.
    """

    returns_to_best: ClassVar[bool]

    @property
    @abc.abstractmethod
    def candidates(self) -> Tensor:
        """The values whose objectives are needed next, shape ``(edits, candidates, value_size)``."""

    @abc.abstractmethod
    def step(self, objectives: Sequence[Sequence[float]], gradients: Tensor) -> None:
        """Choose the next candidates.

        Args:
            objectives: the objectives of the candidates, by edit.
            gradients: the gradient of each edit's best candidate, shape ``(edits, value_size)``.
        """

    @abc.abstractmethod
    def keep(self, edits: Sequence[int]) -> None:
        """Continue with a selection of the edits."""


class Adam(ValueOptimiser):
    """Adam, with one candidate for each edit.

    Args:
        starts: the initial values, shape ``(edits, value_size)``.
        edit_lr: the learning rate.
    """

    returns_to_best = False

    def __init__(self, starts: Tensor, edit_lr: float) -> None:
        self._values = starts.detach().clone()
        self._optimiser = torch.optim.Adam([self._values], lr=edit_lr)

    @property
    def candidates(self) -> Tensor:
        """See :class:`ValueOptimiser`."""
        return self._values.unsqueeze(1)

    def step(self, objectives: Sequence[Sequence[float]], gradients: Tensor) -> None:
        """Update the values; see :class:`ValueOptimiser`."""
        self._values.grad = gradients
        self._optimiser.step()

    def keep(self, edits: Sequence[int]) -> None:
        """Continue with a selection of the edits, and with Adam's state of them."""
        kept = torch.tensor(edits, device=self._values.device)
        selection = self._values[kept].clone()
        optimiser = torch.optim.Adam([selection], lr=self._optimiser.param_groups[0]["lr"])
        state = self._optimiser.state.get(self._values, {})
        optimiser.state[selection] = {name: part[kept] if part.dim() else part for name, part in state.items()}
        self._values, self._optimiser = selection, optimiser


class QuasiNewton(ValueOptimiser):
    """Limited-memory BFGS, a search for each edit; see :class:`.QuasiNewtonSearch`.

    Args:
        starts: the initial values, shape ``(edits, value_size)``.
        edit_lr: the longest step is five times that of Adam with this learning rate.
        multiples: multiples of each step that are tried in the same pass.
    """

    returns_to_best = True

    def __init__(self, starts: Tensor, edit_lr: float, multiples: Sequence[float]) -> None:
        longest = _LONGEST_STEP * edit_lr * starts.shape[1] ** 0.5
        self._searches = [QuasiNewtonSearch(start, longest, multiples) for start in starts.detach()]

    @property
    def candidates(self) -> Tensor:
        """See :class:`ValueOptimiser`."""
        return torch.stack([search.candidates for search in self._searches])

    def step(self, objectives: Sequence[Sequence[float]], gradients: Tensor) -> None:
        """Update the searches; see :class:`ValueOptimiser`."""
        for search, values, gradient in zip(self._searches, objectives, gradients, strict=True):
            search.update(values, gradient)

    def keep(self, edits: Sequence[int]) -> None:
        """Continue with a selection of the edits."""
        self._searches = [self._searches[edit] for edit in edits]


def make_optimiser(hparams: GraceHyperParams, starts: Tensor, several: bool) -> ValueOptimiser:
    """Return the optimiser that the hyperparameters name.

    Args:
        hparams: ``optimizer`` and ``edit_lr``.
        starts: the initial values, shape ``(edits, value_size)``.
        several: whether a pass with several candidates of an edit takes hardly longer than one with a single candidate.
    """
    if hparams.optimizer == ADAM:
        return Adam(starts, hparams.edit_lr)
    return QuasiNewton(starts, hparams.edit_lr, (1.0, 2.0) if several else (1.0,))
