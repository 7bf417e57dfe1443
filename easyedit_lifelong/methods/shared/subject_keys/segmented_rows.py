"""Rows of equal width in several tensors, such as rows that stay in a memory-mapped file and rows added since."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class SegmentedRows:
    """Rows in several tensors of equal dtype and device, read by their indices as rows of one tensor are.

    Args:
        segments: the tensors, each of shape ``(rows, width)``; at least one.
    """

    def __init__(self, segments: Sequence[Tensor]) -> None:
        self.segments = tuple(segments)

    def __len__(self) -> int:
        """Return the number of rows."""
        return sum(map(len, self.segments))

    @property
    def shape(self) -> tuple[int, int]:
        """The number of rows, and their width."""
        return len(self), self.segments[0].shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the rows."""
        return self.segments[0].dtype

    @property
    def device(self) -> torch.device:
        """The device of the rows."""
        return self.segments[0].device

    def numel(self) -> int:
        """Return the number of elements."""
        return len(self) * self.segments[0].shape[1]

    def __getitem__(self, index: Tensor) -> Tensor:
        """Return copies of rows, ``(*index.shape, width)``.

        Args:
            index: indices of rows, not negative.
        """
        rows = torch.empty(*index.shape, self.segments[0].shape[1], dtype=self.dtype, device=self.device)
        begin = 0
        for segment in self.segments:
            inside = (index >= begin) & (index < begin + len(segment))
            rows[inside] = segment[index[inside] - begin]
            begin += len(segment)
        return rows

    def divided(self, count: int) -> SegmentedRows:
        """Return the rows, each divided into ``count`` rows of equal width."""
        return SegmentedRows([segment.view(len(segment) * count, -1) for segment in self.segments])


Rows = Tensor | SegmentedRows
"""Rows in one tensor or in several."""


def segments_of(rows: Rows) -> tuple[Tensor, ...]:
    """Return the tensors that hold rows."""
    return rows.segments if isinstance(rows, SegmentedRows) else (rows,)


def in_one_tensor(rows: Rows) -> Tensor:
    """Return rows as one tensor; rows in several tensors are copied."""
    return torch.cat(rows.segments) if isinstance(rows, SegmentedRows) else rows
