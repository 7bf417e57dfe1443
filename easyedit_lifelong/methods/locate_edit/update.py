"""The solvers that compute the update of a layer, R Kᵀ (λ E[kkᵀ] + …)⁻¹."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.weight_updates.layer_update import LayerUpdate


class Solver(Protocol):
    """Computes the updates of one layer, batch by batch."""

    def update(self, keys: Tensor, residual: Tensor) -> LayerUpdate:
        """Return the update that maps new keys to a residual. The keys are not added; see :meth:`add`.

        Args:
            keys: K, shape ``(inputs, n)``.
            residual: R, shape ``(outputs, n)``.

        Raises:
            EditError: the update cannot be computed from these keys.
        """

    def add(self, keys: Tensor) -> None:
        """Record that the layer now has the update of these keys, shape ``(inputs, n)``."""

    def truncate(self, count: int) -> None:
        """Forget the keys of all edits after the first ``count``."""


@dataclass(frozen=True)
class _Solved:
    """The intermediate results of a solve, which :meth:`AccumulatedKeys.add` can reuse.

    Attributes:
        keys: the keys K that were solved for, shape ``(d, n)``.
        whitened_keys: Y with the whitened keys L⁻¹K appended.
        inner_factor: the Cholesky factor of I + YᵀY for that Y.
    """

    keys: Tensor
    whitened_keys: Tensor
    inner_factor: Tensor


class AccumulatedKeys:
    """A :class:`Solver` whose updates take the keys of earlier batches into account.

    For new keys K it solves a system with the matrix C_accu + KKᵀ, where C_accu = λ E[kkᵀ] + K'K'ᵀ (arXiv 2403.05330,
    equation 4) and K' are the keys so far.

    λ E[kkᵀ] = L Lᵀ is factored once, in d³/3 operations. After that, a batch of n keys costs d²n operations. With the
    whitened keys Y = L⁻¹[K' K],

        (λ E[kkᵀ] + K'K'ᵀ + KKᵀ)⁻¹ K = L⁻ᵀ (I + YYᵀ)⁻¹ L⁻¹K = L⁻ᵀ Y (I + YᵀY)⁻¹ S,

    where S selects the columns of K from [K' K]. The Cholesky factor of I + YᵀY (the *inner factor*) gets n new rows.
    The solution is a product. The Woodbury formula would give a difference, in which digits cancel if λ is small. When
    there are as many keys as dimensions, L is replaced by the factor of C_accu, and Y is emptied. All computations are
    in float64.

    Args:
        moment: E[kkᵀ], shape ``(d, d)``.
        weight: λ, ``mom2_update_weight``.
        ridge: this share of the mean of the moment's diagonal is added to its diagonal, for moments of few tokens.
        device: the device of the computations.
        dtype: the dtype of stored keys and of updates.
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
        self._factor: Tensor | None = None  # L
        self._factored_keys = 0  # the number of keys that are in L
        self._last_solve: _Solved | None = None
        self._clear_whitened_keys()

    def matrix(self) -> Tensor:
        """Return C_accu, shape ``(d, d)``, in float64."""
        keys = self.keys.to(self.device, torch.float64)
        return self._weighted_moment() + keys @ keys.t()

    def solve(self, keys: Tensor) -> Tensor:
        """Return (C_accu + KKᵀ)⁻¹ K, shape ``(d, n)``, in float64. The keys are not added.

        Args:
            keys: K, shape ``(d, n)``.

        Raises:
            EditError: the keys or the second moments are NaN, infinite or too large, or the second moments are
                singular.
        """
        factor = self._get_factor()
        new = torch.linalg.solve_triangular(factor, keys.to(self.device, torch.float64), upper=False)
        whitened = torch.cat([self._whitened_keys, new], dim=1)
        inner = self._extend_inner_factor(new)
        selection = new.new_zeros(whitened.shape[1], new.shape[1])
        selection[-new.shape[1] :].fill_diagonal_(1)
        inner_solution = torch.cholesky_solve(selection, inner)
        solution = torch.linalg.solve_triangular(factor.t(), whitened @ inner_solution, upper=True)
        if not torch.isfinite(solution).all():
            raise EditError("the update isn't finite: the keys or the second moments hold NaN or infinite values")
        self._last_solve = _Solved(keys, whitened, inner)
        return solution

    def update(self, keys: Tensor, residual: Tensor) -> LayerUpdate:
        """Return the update R Kᵀ (C_accu + KKᵀ)⁻¹; see :meth:`Solver.update`."""
        dtype = self.keys.dtype
        keys = keys.to(dtype)
        return LayerUpdate(keys.cpu(), self.solve(keys).to("cpu", dtype), residual.to("cpu", dtype))

    def add(self, keys: Tensor) -> None:
        """Append keys, shape ``(d, n)``, to K'."""
        stored = keys.to("cpu", self.keys.dtype)
        solved = self._last_solve
        if solved is not None and torch.equal(solved.keys.to("cpu", torch.float64), stored.double()):
            self._whitened_keys, self._inner_factor = solved.whitened_keys, solved.inner_factor
        else:
            new = torch.linalg.solve_triangular(self._get_factor(), stored.to(self.device, torch.float64), upper=False)
            self._inner_factor = self._extend_inner_factor(new)
            self._whitened_keys = torch.cat([self._whitened_keys, new], dim=1)
        self._last_solve = None
        self.keys = torch.cat([self.keys, stored], dim=1)
        if self._whitened_keys.shape[1] >= len(self.moment):
            self._compute_factor()

    def truncate(self, count: int) -> None:
        """Forget all keys after the first ``count``."""
        self._last_solve = None
        self.keys = self.keys[:, :count].clone()
        if count < self._factored_keys:  # L contains keys to forget
            self._factor = None
            self._clear_whitened_keys()
        else:
            whitened = count - self._factored_keys
            self._whitened_keys = self._whitened_keys[:, :whitened].clone()
            # A leading block of a Cholesky factor is the factor of the leading block.
            self._inner_factor = self._inner_factor[:whitened, :whitened].clone()

    def _extend_inner_factor(self, new: Tensor) -> Tensor:
        """Return the inner factor after whitened keys ``new``, shape ``(d, n)``, are appended to Y."""
        off_diagonal = torch.linalg.solve_triangular(self._inner_factor, self._whitened_keys.t() @ new, upper=False)
        identity = torch.eye(new.shape[1], dtype=new.dtype, device=new.device)
        corner, info = torch.linalg.cholesky_ex(identity + new.t() @ new - off_diagonal.t() @ off_diagonal)
        if info.any() or not torch.isfinite(corner).all():
            raise EditError("the update can't be computed: the new keys are NaN, infinite or far too large")
        old = self._inner_factor.shape[0]
        size = old + new.shape[1]
        inner = torch.zeros(size, size, dtype=new.dtype, device=new.device)
        inner[:old, :old], inner[old:, :old], inner[old:, old:] = self._inner_factor, off_diagonal.t(), corner
        return inner

    def _weighted_moment(self) -> Tensor:
        """Return λ E[kkᵀ] with the ridge, in float64."""
        weighted = self.moment.to(self.device, torch.float64) * self.weight
        if self.ridge:
            weighted.diagonal().add_(self.ridge * weighted.diagonal().mean())
        return weighted

    def _get_factor(self) -> Tensor:
        """Return L; compute it first if necessary."""
        return self._compute_factor() if self._factor is None else self._factor

    def _compute_factor(self) -> Tensor:
        """Set L to the factor of C_accu, empty Y, and return L."""
        factor, info = torch.linalg.cholesky_ex(self.matrix())
        if info.any() or not torch.isfinite(factor).all():
            raise EditError(
                "the update can't be computed: the second moments aren't positive definite. "
                "Collect them from more, or more varied, text (mom2_n_tokens at least four times the key size)."
            )
        self._factor, self._factored_keys = factor, self.keys.shape[1]
        self._clear_whitened_keys()
        return factor

    def _clear_whitened_keys(self) -> None:
        """Empty Y and the inner factor."""
        self._whitened_keys = torch.empty(len(self.moment), 0, dtype=torch.float64, device=self.device)
        self._inner_factor = torch.empty(0, 0, dtype=torch.float64, device=self.device)


class SeparateBatches(AccumulatedKeys):
    """A :class:`Solver` whose updates ignore the keys of earlier batches (MEMIT, arXiv 2210.07229)."""

    def add(self, keys: Tensor) -> None:
        """Do not store the keys: later updates ignore them."""
        self._last_solve = None


def solving_device(size: int, preferred: torch.device, layers: int) -> torch.device:
    """Return the device to solve on: the layer's GPU if the float64 matrices of all layers fit there, else the CPU.

    Args:
        size: number of rows and columns of each matrix.
        preferred: the device of the layer.
        layers: the number of edited layers. One factor of each stays in memory; a solve needs two more matrices.
    """
    if preferred.type != "cuda":
        return torch.device("cpu")
    free, _ = torch.cuda.mem_get_info(preferred)
    return preferred if free > (layers + 2) * 8 * size * size else torch.device("cpu")
