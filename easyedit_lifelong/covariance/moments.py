"""Second moments of keys: the type, the running sum, and the regularisation for few keys."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from easyedit_lifelong.errors import CovarianceError

ENOUGH_PER_DIMENSION = 4
"""From this number of keys per dimension on, second moments need no regularisation."""
_MAX_SHARE = 0.01
"""The share of the mean diagonal that is added to the diagonal if there are hardly any keys."""
_NOT_FINITE = "the keys hold NaN or infinity: the module gets unusable inputs"
_MAX_STRIPS = 8
_MIN_STRIP_ROWS = 192


@dataclass(frozen=True)
class SecondMoment:
    """The second moments C = E[k kᵀ] of a module's inputs k ("mom2" in MEMIT's code).

    Attributes:
        moment: the matrix C, not centred, shape ``(d, d)``, float32, on the CPU.
        count: number of keys (tokens) in the average.
        source: the file that holds it, for messages.
    """

    moment: Tensor
    count: int
    source: str


def regularisation(count: int, d: int) -> float:
    """Return the share of the mean diagonal that must be added to the diagonal of second moments.

    With fewer keys than dimensions, the matrix is singular: no key has a component in some directions, and an edit's
    update gets very large along them. With four keys per dimension or more, nothing is added (arXiv 2506.04226 finds
    that a few are enough). With fewer, the share rises linearly up to 1 %.

    Args:
        count: number of keys in the average.
        d: key size.

    Returns:
        The share, from 0.0 to 0.01, for ``moment + share * moment.diagonal().mean() * I``.
    """
    enough = ENOUGH_PER_DIMENSION * d
    return 0.0 if count >= enough else _MAX_SHARE * (1 - count / enough)


class MomentSum:
    """The running sum of k kᵀ of one module.

    The products of a block are summed in float32 on the device of the keys. The sums of blocks are added in float64 on
    the CPU. Only one half of the symmetric matrix is computed. (EasyEdit's ``SecondMoment`` computes both halves, and
    sums all products in the dtype of the keys.)

    Args:
        d: key size.

    Attributes:
        d: key size.
        count: number of keys added.
        total: sum of the products of all flushed blocks, float64, shape ``(d, d)``. Only the upper strips are valid;
            see :meth:`symmetric`.
    """

    def __init__(self, d: int) -> None:
        self.d = d
        self.count = 0
        self.total: Tensor = torch.zeros(d, d, dtype=torch.float64)
        self._block_sum: Tensor | None = None

    @classmethod
    def of(cls, total: Tensor, count: int, module: str) -> MomentSum:
        """Return a running sum that holds a sum computed elsewhere.

        Args:
            total: sum of k kᵀ, shape ``(d, d)``.
            count: number of keys in the sum.
            module: path of the module whose inputs they are, for messages.

        Raises:
            CovarianceError: the sum holds NaN or infinity.
        """
        moment_sum = cls(len(total))
        moment_sum.total, moment_sum.count = total.cpu().double(), count
        if not bool(torch.isfinite(moment_sum.total.sum())):
            raise CovarianceError(f"{module}: {_NOT_FINITE}")
        return moment_sum

    def add(self, keys: Tensor) -> None:
        """Add keys to the sum of the current block.

        Args:
            keys: shape ``(n, d)``, of any dtype and on any device.

        Raises:
            CovarianceError: the keys have another size.
        """
        if keys.dim() != 2 or keys.shape[1] != self.d:
            raise CovarianceError(f"keys of shape {tuple(keys.shape)} where (any, {self.d}) was expected")
        keys = keys.detach().float()
        if self._block_sum is None or self._block_sum.device != keys.device:
            self.flush()
            self._block_sum = torch.zeros(self.d, self.d, dtype=torch.float32, device=keys.device)
        for start, stop in _strips(self.d):
            self._block_sum[start:stop, start:].addmm_(keys[:, start:stop].t(), keys[:, start:])
        self.count += len(keys)

    def flush(self) -> None:
        """Add the float32 sum of the current block to the float64 sum.

        Raises:
            CovarianceError: the sum holds NaN or infinity.
        """
        if self._block_sum is None:
            return
        block_sum = self._block_sum.cpu()
        if not bool(torch.isfinite(block_sum.sum())):
            raise CovarianceError(_NOT_FINITE)
        self.total += block_sum
        self._block_sum.zero_()

    def symmetric(self) -> Tensor:
        """Return the full matrix of the sum of k kᵀ, shape ``(d, d)``, float64, exactly symmetric; not a copy."""
        self.flush()
        for start, stop in _strips(self.d):
            diagonal_square = self.total[start:stop, start:stop]
            diagonal_square.copy_(diagonal_square.triu() + diagonal_square.triu(1).t())
            self.total[stop:, start:stop] = self.total[start:stop, stop:].t()
        return self.total


def _strips(d: int) -> list[tuple[int, int]]:
    """Return strips of rows of a symmetric product: each is computed from its first diagonal entry to the right."""
    width = max(_MIN_STRIP_ROWS, -(-d // _MAX_STRIPS))
    return [(start, min(start + width, d)) for start in range(0, d, width)]
