"""The pass that trains the values of an edit's further keys: values replace the output at several target tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.methods.grace.training.suffix_pass import SuffixPass


class AnswerPass(SuffixPass):
    """A pass over one request, in which the value of its first key and those of its further keys act.

    The layer's input at a token does not depend on any value at the same layer: values act above it. So the further
    keys are known before any value is trained, and all of their values can be trained in the same passes.

    Arguments are those of :class:`.SuffixPass`, with one pair.
    """

    every_target = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._places: Tensor | None = None
        super().__init__(*args, **kwargs)

    def set_values(self, first_value: Tensor, places: Sequence[int]) -> None:
        """Set the value of the first key, and where the values act that :meth:`logits` receives.

        Args:
            first_value: shape ``(value_size,)``.
            places: for each further key, the number of target tokens before it.
        """
        self._places = torch.tensor(places, device=self.outputs.device)
        self._outputs_with_first_value = self.outputs.clone()
        self._outputs_with_first_value[:, 0] = first_value

    def logits(self, values: Tensor | None) -> Tensor:
        """Return the logits that predict the target.

        Args:
            values: the values of the further keys, shape ``(rows, keys * value_size)``; None for a pass without values.
        """
        if values is None or self._places is None:
            return super().logits(values)
        of_keys = values.view(len(values), len(self._places), -1)
        return super().logits(self._outputs_with_first_value.index_copy(1, self._places, of_keys))

    def select_rows(self, rows: Tensor) -> AnswerPass:
        """Return a pass over a selection of the rows, which may be repeated."""
        selection = super().select_rows(rows)
        assert isinstance(selection, AnswerPass)
        if self._places is not None:
            selection._outputs_with_first_value = self._outputs_with_first_value[rows]
        return selection

    def wrong_tokens(self, values: Tensor) -> list[int]:
        """Return which target tokens are not the most likely ones, as indices into the target.

        Args:
            values: the values of the further keys, shape ``(keys * value_size,)``.
        """
        with torch.no_grad():
            predicted = self.logits(values.unsqueeze(0)).argmax(dim=-1)
        return [int(token) for token in (predicted != self.targets)[0].nonzero()]
