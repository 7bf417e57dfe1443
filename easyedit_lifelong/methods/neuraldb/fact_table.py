"""The table of keys and residuals, and the gate that decides which residual is added at a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from easyedit_lifelong.methods.shared.replaced_edits import replaced_by
from easyedit_lifelong.methods.shared.separate_edit import SeparateEdit

KEY, RESIDUAL = "key", "residual"
"""Names of the tensors of an edit: k, shape ``(inputs,)``, and r, shape ``(width,)``, both float32."""

GAMMA, KEY_TOKENS = "gamma", "key_tokens"
"""Names of the data of an edit: its threshold γ, and the tokens of its prompt up to the lookup token."""

_PAIRS_AT_ONCE = 1 << 24
"""Pairs of token and key whose cosines are in memory at once."""


class Lookup(NamedTuple):
    """The nearest key of each token.

    Attributes:
        row: its row in the table, shape of the tokens.
        cosine: the cosine between the token's input and the key, same shape.
        answers: whether the cosine is above the γ of the key's edit, same shape.
    """

    row: Tensor
    cosine: Tensor
    answers: Tensor


class FactTable:
    """The keys k_j and residuals r_j of the edits that can answer, with their γ.

    Args:
        edits: the edits of a model, in order; not empty.

    Attributes:
        edits: the edits that can answer, one for each row of the table. See :func:`answered_tokens` for the others.
        residuals: the residuals, shape ``(rows, width)``, float32.
    """

    def __init__(self, edits: Sequence[SeparateEdit]) -> None:
        replaced = replaced_by([answered_tokens(edit) for edit in edits])
        self.edits = [edit for edit, later in zip(edits, replaced, strict=True) if later is None]
        self.residuals = torch.stack([edit.tensors[RESIDUAL] for edit in self.edits])
        self._unit_keys = unit_keys(self.edits)
        self._gammas = torch.tensor([edit.data[GAMMA] for edit in self.edits])

    def lookup(self, inputs: Tensor) -> Lookup:
        """Return the nearest key of each token.

        A matrix product with all keys: 2 · inputs · rows operations for each token.

        Args:
            inputs: the inputs of the projection, shape ``(..., inputs)``, any dtype.
        """
        self._move_to(inputs.device)
        tokens = inputs.detach().reshape(-1, inputs.shape[-1])
        dtype = torch.promote_types(tokens.dtype, torch.float32)
        blocks = F.normalize(tokens.to(dtype), dim=1).split(max(1, _PAIRS_AT_ONCE // len(self.edits)))
        nearest = [(block @ self._unit_keys.to(dtype).t()).max(dim=1) for block in blocks]
        shape = inputs.shape[:-1]
        cosine = torch.cat([values for values, _ in nearest]).view(shape)
        row = torch.cat([rows for _, rows in nearest]).view(shape)
        return Lookup(row, cosine, cosine > self._gammas[row])

    def _move_to(self, device: torch.device) -> None:
        """Move the table to a device, since the model may have moved."""
        if self._unit_keys.device == device:
            return
        # Tensors made in inference mode could not be used outside of it.
        with torch.inference_mode(False):
            self._unit_keys, self._gammas = self._unit_keys.to(device), self._gammas.to(device)
            self.residuals = self.residuals.to(device)


def unit_keys(edits: Sequence[SeparateEdit]) -> Tensor:
    """Return the keys of edits, scaled to unit length, shape ``(edits, inputs)``."""
    return F.normalize(torch.stack([edit.tensors[KEY] for edit in edits]), dim=1)


def answered_tokens(edit: SeparateEdit) -> tuple[int, ...]:
    """Return what an edit is of: the tokens of its prompt up to the lookup token.

    Two prompts that are equal up to the lookup token have the same key, because the tokens after it cannot change it.
    The latest of their edits answers. This is so when a fact is corrected, and also for two facts about one subject
    whose prompts begin with the same words.
    """
    return tuple(edit.data[KEY_TOKENS])
