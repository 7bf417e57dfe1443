"""A trial: values that a layer puts out in a pass of training, or a record of what it reads and puts out."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Trial:
    """What the layer does in a pass of training, instead of a lookup in the codebook.

    With ``values``, these replace the layer's output. Without, the output stays, and ``query`` and ``output`` are set.

    Attributes:
        values: one per row, shape ``(batch, value_size)``; or one per row and token, ``(batch, tokens, value_size)``,
            which replace the output at as many tokens; None to record instead.
        position: index of the query token, the same in every row; -1 for the last.
        tokens: number of tokens to record, from that position on.
        query: the layer's input at these tokens, ``(batch, tokens, key_size)``.
        output: the layer's output at these tokens, ``(batch, tokens, value_size)``.
    """

    values: Tensor | None
    position: int
    tokens: int = 1
    query: Tensor | None = None
    output: Tensor | None = None
