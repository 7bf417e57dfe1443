"""Passes over requests as a function of the values that GRACE trains."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.methods.grace.layer import GraceAdaptor, Trial
from easyedit_lifelong.models.capture import recording_output
from easyedit_lifelong.models.encoding import IGNORED
from easyedit_lifelong.models.suffix import hidden_of, same_logits, standing_in, with_hidden


class ValuePass(abc.ABC):
    """Logits at the targets of a few rows, as a function of the edited layer's values.

    Subclasses define :meth:`_forward`, and call :meth:`_record` once.

    Args:
        adaptor: on the edited layer.
        targets: the classes or tokens to predict, ``(rows, targets)``; ``IGNORED`` where there is none.
        column: of the token whose output a value replaces, the same in every row.
        below: the blocks below the edited one, which needn't run again, in their order.

    Attributes:
        query: the layer's input at that column, with which the codebook is searched, ``(rows, key_size)``.
        output: the layer's output there, ``(rows, value_size)``.
        targets: as given.
        unedited: the logits without an edit, ``(rows, targets, classes)``.
    """

    query: Tensor
    output: Tensor
    unedited: Tensor

    def __init__(self, adaptor: GraceAdaptor, targets: Tensor, column: int, below: Sequence[nn.Module] = ()) -> None:
        self.targets = targets
        self._adaptor, self._column, self._below = adaptor, column, below
        self._boundary: Any = None

    @property
    def is_partial(self) -> bool:
        """Whether a pass runs less than the full model."""
        return bool(self._below)

    def logits(self, values: Tensor | None) -> Tensor:
        """Return the logits that predict the targets.

        Args:
            values: what replaces the layer's output, shape ``(rows, value_size)``; None for no replacement.

        Returns:
            Shape ``(rows, targets, classes)``; differentiable in the values.
        """
        with self._adaptor.trying(Trial(values, self._column)), self._shortcuts():
            return self._forward()

    def agrees(self) -> bool:
        """Whether a partial pass without a value equals the full pass."""
        with torch.no_grad():
            partial = self.logits(None)
        real = self.targets != IGNORED
        return same_logits(partial[real], self.unedited[real], partial.dtype)

    @abc.abstractmethod
    def select_rows(self, rows: Tensor) -> ValuePass:
        """Return the pass over some of the rows."""

    @abc.abstractmethod
    def _forward(self) -> Tensor:
        """Return the logits of a pass that leaves out what is constant."""

    def _shortcuts(self) -> contextlib.AbstractContextManager[Any]:
        """Have the pass inside leave out what is constant."""
        return standing_in(self._below, self._boundary)

    def _record(self, full_pass: Callable[[], Tensor], column: int, start: int = 0) -> None:
        """Compute what is constant in one full pass, and the layer's query and output.

        Args:
            full_pass: makes the pass, and returns its logits.
            column: of the token whose output a value replaces, in the full pass.
            start: first column that later passes run over.
        """

        def keep(output: Any) -> None:
            self._boundary = with_hidden(output, hidden_of(output)[:, start:])

        trial = Trial(None, column)
        with (
            torch.no_grad(),
            self._adaptor.trying(trial),
            recording_output(self._below[-1] if self._below else None, keep),
        ):
            self.unedited = full_pass()
        assert trial.query is not None and trial.output is not None
        self.query, self.output = trial.query, trial.output
