"""Second moments of keys: what they are, how they are summed, and what to do when there are few."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from easyedit_lifelong.errors import CovarianceError

ENOUGH_PER_DIMENSION = 4
"""From this many keys per dimension on, second moments need no regularisation."""
_MOST = 0.01
_NOT_FINITE = "the keys hold NaN or infinity: the model computes no usable inputs there"
_STRIPS = 8
_NARROWEST_STRIP = 192


@dataclass(frozen=True)
class SecondMoment:
    """E[k kᵀ] of a module's inputs k ("mom2" in MEMIT's code).

    Attributes:
        moment: the matrix, float32 on the CPU, of shape ``(d, d)``. Not centred; in units of the keys squared.
        count: how many keys (tokens) were averaged.
        source: the file it is in, for messages.
    """

    moment: Tensor
    count: int
    source: str


def regularisation(count: int, d: int) -> float:
    """Return what share of the mean diagonal to add to the diagonal of second moments.

    Fewer keys than dimensions leave directions in which no key was ever seen: the matrix is singular,
    and an edit's update runs off along them. From four keys per dimension on (arXiv 2506.04226
    finds a few to be enough) nothing is added. Below that, the share rises linearly to 1 %.

    Args:
        count: number of keys averaged.
        d: key size.

    Returns:
        The share, from 0.0 to 0.01: use ``moment + share * moment.diagonal().mean() * I``.
    """
    enough = ENOUGH_PER_DIMENSION * d
    return 0.0 if count >= enough else _MOST * (1 - count / enough)


class MomentSum:
    """The running sum of k kᵀ of one module.

    EasyEdit's ``SecondMoment`` adds every batch's product to a sum in the keys' own dtype and computes both
    halves of the symmetric product. Here a block's products are summed in float32 where the keys
    are, one half of them only, and blocks are summed in float64 on the CPU. Nothing of EasyEdit's
    is imported, because statistics must be had where it isn't installed; the file format is the same.

    Args:
        d: key size.
    """

    def __init__(self, d: int) -> None:
        self.d = d
        self.count = 0
        self.total: Tensor = torch.zeros(d, d, dtype=torch.float64)
        """Sum of all flushed products, upper strips only; float64, shape ``(d, d)``."""
        self._block: Tensor | None = None

    @classmethod
    def of(cls, total: Tensor, count: int, module: str) -> MomentSum:
        """Return a sum that was computed elsewhere.

        Args:
            total: sum of k kᵀ, shape ``(d, d)``.
            count: number of keys summed.
            module: path of the module whose inputs they are, for messages.

        Raises:
            CovarianceError: the sum holds NaN or infinity.
        """
        made = cls(len(total))
        made.total, made.count = total.cpu().double(), count
        if not bool(torch.isfinite(made.total.sum())):
            raise CovarianceError(f"{module}: {_NOT_FINITE}")
        return made

    def add(self, keys: Tensor) -> None:
        """Add keys of shape ``(n, d)``, any dtype and device, to the block's sum.

        Raises:
            CovarianceError: the keys have another size.
        """
        if keys.dim() != 2 or keys.shape[1] != self.d:
            raise CovarianceError(f"keys of shape {tuple(keys.shape)} where (any, {self.d}) was expected")
        keys = keys.detach().float()
        if self._block is None or self._block.device != keys.device:
            self.flush()
            self._block = torch.zeros(self.d, self.d, dtype=torch.float32, device=keys.device)
        for start, stop in _strips(self.d):
            self._block[start:stop, start:].addmm_(keys[:, start:stop].t(), keys[:, start:])
        self.count += len(keys)

    def flush(self) -> None:
        """Move the block's float32 sum into the float64 one.

        Raises:
            CovarianceError: the sum holds NaN or infinity.
        """
        if self._block is None:
            return
        block = self._block.cpu()
        if not bool(torch.isfinite(block.sum())):
            raise CovarianceError(_NOT_FINITE)
        self.total += block
        self._block.zero_()

    def symmetric(self) -> Tensor:
        """Return the whole sum of k kᵀ: float64, symmetric to the last bit, shape ``(d, d)``; no copy."""
        self.flush()
        for start, stop in _strips(self.d):
            corner = self.total[start:stop, start:stop]
            corner.copy_(corner.triu() + corner.triu(1).t())
            self.total[stop:, start:stop] = self.total[start:stop, stop:].t()
        return self.total


def _strips(d: int) -> list[tuple[int, int]]:
    """Cut the rows of a symmetric product so that little of its lower half is computed."""
    width = max(_NARROWEST_STRIP, -(-d // _STRIPS))
    return [(start, min(start + width, d)) for start in range(0, d, width)]
