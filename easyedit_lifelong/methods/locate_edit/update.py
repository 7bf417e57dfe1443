"""The closed-form update Δ = R Kᵀ (λ E[kkᵀ] + …)⁻¹ of one layer, and the solvers that compute it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from easyedit_lifelong.errors import EditError


@dataclass(frozen=True)
class LayerUpdate:
    """The low-rank update of one layer by a batch of n edits: Δ = residual · adjustedᵀ.

    Attributes:
        keys: K, shape ``(inputs, n)``.
        adjusted: the solution of the solver's matrix with K, such as (λ E[kkᵀ] + KKᵀ)⁻¹ K, shape ``(inputs, n)``.
        residual: this layer's part of R, shape ``(outputs, n)``.
    """

    keys: Tensor
    adjusted: Tensor
    residual: Tensor

    def matrix(self) -> Tensor:
        """Return Δ, shape ``(outputs, inputs)``, float64."""
        return self.residual.double() @ self.adjusted.double().t()

    def added_to(self, delta: Tensor | None) -> Tensor:
        """Return a layer's ΔW plus this update, in the dtype that updates are stored in; None counts as zero."""
        update = self.matrix()
        total = update if delta is None else delta.to(update.device).double() + update
        return total.to(self.keys.dtype)


class Solver(Protocol):
    """Computes the updates of one layer, batch by batch."""

    def update(self, keys: Tensor, residual: Tensor) -> LayerUpdate:
        """Return the update that maps new keys onto a residual; the solver itself stays as it is.

        Args:
            keys: K, shape ``(inputs, n)``.
            residual: R, shape ``(outputs, n)``.

        Raises:
            EditError: the keys cannot be solved with.
        """

    def add(self, keys: Tensor) -> None:
        """Note that the update of these keys, shape ``(inputs, n)``, is in the layer from now on."""

    def truncate(self, count: int) -> None:
        """Forget all edits but the first ``count``."""


class AccumulatedKeys:
    """C_accu = λ E[kkᵀ] + K'K'ᵀ of one layer (arXiv 2403.05330, equation 4), solved with factors that grow with K'.

    The first term is factored once, λ E[kkᵀ] = L Lᵀ (d³/3 operations). From then on a batch of n keys
    K costs d²n: with Y = L⁻¹[K' K],

        (λ E[kkᵀ] + K'K'ᵀ + KKᵀ)⁻¹ K = L⁻ᵀ (I + YYᵀ)⁻¹ L⁻¹K = L⁻ᵀ Y (I + YᵀY)⁻¹ S,

    where S picks the columns of K from [K' K], and the Cholesky factor of I + YᵀY gets n new rows. Nothing
    is subtracted, so nothing cancels however small λ is. Once there are as many keys as dimensions, they
    are folded into L. All in float64. It is a :class:`Solver`: keys of earlier batches weigh on later ones.

    Args:
        moment: E[kkᵀ], shape ``(d, d)``.
        weight: λ, ``mom2_update_weight``.
        ridge: share of the moment's mean diagonal that is added to it, for statistics of few tokens.
        device: where to solve.
        dtype: of the keys that are kept, and of updates.
    """

    def __init__(
        self,
        moment: Tensor,
        weight: float,
        *,
        ridge: float = 0.0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.moment, self.weight, self.ridge = moment, weight, ridge
        self.device = torch.device(device)
        self.keys = torch.empty(len(moment), 0, dtype=dtype)
        self._factor: Tensor | None = None
        self._folded = 0
        self._whitened = torch.empty(len(moment), 0, dtype=torch.float64, device=self.device)
        self._inner = torch.empty(0, 0, dtype=torch.float64, device=self.device)
        self._solved: tuple[Tensor, Tensor, Tensor] | None = None

    def matrix(self) -> Tensor:
        """Return C_accu, shape ``(d, d)``, float64."""
        keys = self.keys.to(self.device, torch.float64)
        return self._base() + keys @ keys.t()

    def solve(self, keys: Tensor) -> Tensor:
        """Return (C_accu + KKᵀ)⁻¹ K for new keys, shape ``(d, n)``, float64. Nothing is accumulated yet.

        Args:
            keys: K, shape ``(d, n)``.

        Raises:
            EditError: the keys, or the second moments, can't be solved with.
        """
        factor = self._factored()
        new = torch.linalg.solve_triangular(factor, keys.to(self.device, torch.float64), upper=False)
        whitened = torch.cat([self._whitened, new], dim=1)
        inner = self._extended(new)
        picked = new.new_zeros(whitened.shape[1], new.shape[1])
        picked[-new.shape[1] :].fill_diagonal_(1)
        solution = torch.linalg.solve_triangular(factor.t(), whitened @ torch.cholesky_solve(picked, inner), upper=True)
        if not torch.isfinite(solution).all():
            raise EditError("the update isn't finite: the keys or the second moments hold NaN or infinite values")
        self._solved = (keys, whitened, inner)
        return solution

    def update(self, keys: Tensor, residual: Tensor) -> LayerUpdate:
        """Return Δ = R Kᵀ (C_accu + KKᵀ)⁻¹; see :class:`Solver`."""
        dtype = self.keys.dtype
        keys = keys.to(dtype)
        return LayerUpdate(keys.cpu(), self.solve(keys).to("cpu", dtype), residual.to("cpu", dtype))

    def add(self, keys: Tensor) -> None:
        """Accumulate keys, shape ``(d, n)``: they are K' from now on."""
        kept = keys.to("cpu", self.keys.dtype)
        if self._solved is not None and torch.equal(self._solved[0].to("cpu", torch.float64), kept.double()):
            _, self._whitened, self._inner = self._solved  # the factors of the solve just before
        else:
            new = torch.linalg.solve_triangular(self._factored(), kept.to(self.device, torch.float64), upper=False)
            self._inner = self._extended(new)
            self._whitened = torch.cat([self._whitened, new], dim=1)
        self._solved = None
        self.keys = torch.cat([self.keys, kept], dim=1)
        if self._whitened.shape[1] >= len(self.moment):
            self._refactor()

    def truncate(self, count: int) -> None:
        """Forget all keys but the first ``count``."""
        self._solved = None
        self.keys = self.keys[:, :count].clone()
        if count < self._folded:
            self._factor = None
            self._empty()
        else:
            count -= self._folded
            # A leading block of a Cholesky factor is the factor of the leading block.
            self._whitened, self._inner = self._whitened[:, :count].clone(), self._inner[:count, :count].clone()

    def _extended(self, new: Tensor) -> Tensor:
        """Return the Cholesky factor of I + YᵀY with whitened keys appended to Y."""
        beside = torch.linalg.solve_triangular(self._inner, self._whitened.t() @ new, upper=False)
        corner = torch.eye(new.shape[1], dtype=new.dtype, device=new.device) + new.t() @ new - beside.t() @ beside
        lower, problem = torch.linalg.cholesky_ex(corner)
        if problem.any() or not torch.isfinite(lower).all():
            raise EditError("the new keys can't be solved with: they are NaN, infinite or far too large")
        old = self._inner.shape[0]
        size = old + new.shape[1]
        inner = torch.zeros(size, size, dtype=new.dtype, device=new.device)
        inner[:old, :old], inner[old:, :old], inner[old:, old:] = self._inner, beside.t(), lower
        return inner

    def _base(self) -> Tensor:
        """Return λ E[kkᵀ], regularised, float64."""
        base = self.moment.to(self.device, torch.float64) * self.weight
        if self.ridge:
            base.diagonal().add_(self.ridge * base.diagonal().mean())
        return base

    def _factored(self) -> Tensor:
        if self._factor is None:
            self._refactor()
        assert self._factor is not None
        return self._factor

    def _refactor(self) -> None:
        matrix = self.matrix()
        factor, problem = torch.linalg.cholesky_ex(matrix)
        if problem.any() or not torch.isfinite(factor).all():
            raise EditError(
                "the second moments can't be solved with: they aren't positive definite. "
                "Collect them from more, or more varied, text (mom2_n_tokens at least four times the key size)."
            )
        self._factor, self._folded = factor, self.keys.shape[1]
        self._empty()

    def _empty(self) -> None:
        self._whitened = torch.empty(len(self.moment), 0, dtype=torch.float64, device=self.device)
        self._inner = torch.empty(0, 0, dtype=torch.float64, device=self.device)


class SeparateBatches(AccumulatedKeys):
    """λ E[kkᵀ] alone: each batch is solved for without the keys of earlier ones (MEMIT, arXiv 2210.07229)."""

    def add(self, keys: Tensor) -> None:
        """Keep nothing."""
        self._solved = None


def solving_device(size: int, preferred: torch.device, layers: int) -> torch.device:
    """Return where to solve with ``(size, size)`` matrices in float64: on the GPU if a factor of each layer fits.

    Args:
        size: d.
        preferred: the layer's device.
        layers: how many layers are solved for; one factor of each is kept, and two more matrices are needed at a time.
    """
    if preferred.type != "cuda":
        return torch.device("cpu")
    free, _ = torch.cuda.mem_get_info(preferred)
    return preferred if free > (layers + 2) * 8 * size * size else torch.device("cpu")
