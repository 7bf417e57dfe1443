"""Give tensors of layers that process the tokens of all rows in one axis the usual two axes, rows and tokens.

Some blocks flatten ``(rows, tokens, width)`` before their MLP and restore the shape after it: those of OPT, and the
shared experts of Qwen2-MoE. Hooks on a projection inside see ``(rows * tokens, width)``.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


def with_row_axis(values: Any, rows: int) -> Any:
    """Return a tensor of shape ``(rows * tokens, width)`` as ``(rows, tokens, width)``; anything else as it is.

    Args:
        values: what a hook received.
        rows: the number of rows of the pass.
    """
    if not isinstance(values, Tensor) or values.dim() != 2 or rows == 0 or len(values) % rows:
        return values
    return values.unflatten(0, (rows, -1))


def without_row_axis(values: Tensor) -> Tensor:
    """Return a tensor of shape ``(rows, tokens, width)`` as ``(rows * tokens, width)``."""
    return values.flatten(0, 1)
